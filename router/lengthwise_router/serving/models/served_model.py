"""One model as it is served: its texts, its line of requests, its workers. Models share connections
and nothing else, so that none waits for another."""

import asyncio
from collections.abc import Iterator, Sequence

from lengthwise_policy.length_class import length_class
from lengthwise_router.config import MAX_NAME_CHARACTERS
from lengthwise_router.metrics import RouterMetrics
from lengthwise_router.serving.admission_gate import AdmissionGate
from lengthwise_router.serving.calls.parts import ToldParts
from lengthwise_router.serving.deadline import RequestDeadline
from lengthwise_router.serving.dispatch import Dispatch
from lengthwise_router.serving.generation import Generation
from lengthwise_router.serving.reply import Reply
from lengthwise_router.text.checkpoint import Checkpoint
from lengthwise_router.text.tokenization import PromptEncoder, check_context, check_vocabulary
from lengthwise_router.text.tools.answer_format import AnswerFormat
from lengthwise_router.text.tools.reasoning import BEGIN as REASONING_BEGIN
from lengthwise_router.text.vocabulary import Vocabulary
from lengthwise_router.workers.model_workers import ModelWorkers
from lengthwise_wire.convert import sampling_to_wire
from lengthwise_wire.errors import ModelNotFound, NoWorkerAvailable
from lengthwise_wire.v1 import inference_pb2

SEPARATOR = ":"
"""Between the names of a model and of an adapter, which has none in it."""

MAX_LISTED = 20
"""Names in a refusal, which has to fit into a status."""

INLINE_TOKENS = 4_096
"""Where an answer begins after more tokens is found in a thread: a prompt that ends with 131,072
byte tokens takes 0.3 s."""

REASONING_TOKENS = 16
"""The last ones of a prompt that have the marker, spelled by bytes, and line breaks after it."""


class ServedModel:
    """What a request for this model goes through."""

    def __init__(
        self,
        *,
        checkpoint: Checkpoint,
        encoder: PromptEncoder,
        gate: AdmissionGate,
        dispatch: Dispatch,
        workers: ModelWorkers,
        metrics: RouterMetrics,
        answers: AnswerFormat,
    ) -> None:
        self.answers = answers
        self.checkpoint = checkpoint
        self.gate = gate
        self.dispatch = dispatch
        self.metrics = metrics
        self.encoder = encoder
        self.workers = workers
        self._vocabulary = Vocabulary(checkpoint.tokenizer, cleans_up=checkpoint.cleans_up)

    @property
    def name(self) -> str:
        return self.checkpoint.name

    def adapter(self, name: str) -> str:
        """The key of the adapter that this name of a served model ends with; empty: it is the model
        itself. Errors: ModelNotFound; NoWorkerAvailable before any worker has told what it holds:
        callers are to ask again."""
        _, separator, adapter = name.removeprefix(self.name).partition(SEPARATOR)
        if not separator:
            return ""
        held = self.workers.adapters
        if adapter not in held and not self.workers.has_heard:
            raise NoWorkerAvailable(f"this router has not heard of a worker of {self.name!r} yet")
        if adapter not in held:
            names = ", ".join(sorted(held)[:MAX_LISTED]) or "none"
            raise ModelNotFound(
                f"model: got adapter {adapter[:MAX_NAME_CHARACTERS]!r}, the workers of"
                f" {self.name!r} hold {names}"
            )
        return held[adapter]

    def named(self, adapter: str) -> str:
        """What asks for the model with the adapter of this key; none: for the model itself."""
        name = adapter.partition("@")[0]
        return f"{self.name}{SEPARATOR}{name}" if name else self.name

    async def tokenised(self, prompt: inference_pb2.Prompt, deadline: RequestDeadline) -> list[int]:
        token_ids = self.encoder.encode(prompt)
        if isinstance(token_ids, asyncio.Future):
            await deadline.until_done(token_ids)
            return token_ids.result()
        return token_ids

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Special tokens by their names. Errors: InvalidRequest."""
        if not token_ids:
            return ""
        check_context(len(token_ids), self.checkpoint.context_length + 1, "tokens")
        check_vocabulary(token_ids, self.checkpoint.vocab_size, "tokens")
        return await asyncio.to_thread(self._vocabulary.whole_text, token_ids)

    def token_bytes(self, token_id: int) -> bytes:
        """What a token stands for by itself; a special one for its name."""
        return self._vocabulary.token_bytes(token_id)

    async def new_reply(self, generation: Generation) -> Reply:
        request = generation.request
        shown = self.answers.markers(with_tools=request.has_tools) if request.is_chat else ()
        begins = generation.begins_in_reasoning
        parts = None
        if (use := request.tool_use) is not None:
            parser = use.parser(self.answers, begins_in_reasoning=begins)
            parts = ToldParts(parser, self.answers.new_call_id)
        given = (generation, self._vocabulary, self.metrics, shown, parts)
        if len(generation.token_ids) <= INLINE_TOKENS:
            return Reply(*given)
        return await asyncio.to_thread(Reply, *given)

    def begins_in_reasoning(self, prompt_ids: Sequence[int]) -> bool:
        """Whether a conversation's template has opened the reasoning that the answer begins in."""
        if not self.answers.has_reasoning:
            return False
        end = self._vocabulary.whole_text(prompt_ids[-REASONING_TOKENS:])
        return end.rstrip().endswith(REASONING_BEGIN)

    async def count_arrival(self, generation: Generation) -> None:
        """Demand is measured before anything holds a request back: what is served saturates."""
        token_ids = generation.token_ids
        cached = await self.workers.prefixes.cached_tokens(token_ids, generation.prefix)
        residual = max(len(token_ids) - max(cached.values(), default=0), 1)
        self.metrics.arrived(length_class(residual, self.workers.short_tokens), residual)

    def descriptions(self) -> Iterator[inference_pb2.GetModelResponse]:
        """Of the model, and with each adapter that its workers hold."""
        yield self.description(self.name)
        for adapter in sorted(self.workers.adapters):
            yield self.description(self.named(adapter))

    def description(self, name: str) -> inference_pb2.GetModelResponse:
        """`name`: its own, or with an adapter's; empty: its own. Errors: ModelNotFound."""
        adapter = self.adapter(name)
        checkpoint, capacity = self.checkpoint, self.workers.capacity_tokens
        context = min(checkpoint.context_length, capacity + 1) if capacity else None
        sampling = sampling_to_wire(checkpoint.default_sampling)
        sampling.ClearField("seed")
        return inference_pb2.GetModelResponse(
            model=name or checkpoint.name,
            context_length=context or checkpoint.context_length,
            vocab_size=checkpoint.vocab_size,
            eos_token_ids=checkpoint.eos_token_ids,
            has_chat_template=self.encoder.has_chat_template,
            model_fingerprint=self.workers.fingerprint + (adapter and f"{SEPARATOR}{adapter}"),
            default_sampling=sampling,
            capacity_tokens=capacity,
        )

    def status(self) -> inference_pb2.ModelStatus:
        status = inference_pb2.ModelStatus(
            model=self.name,
            requests_in_flight=self.gate.in_flight + self.gate.num_waiting,
            requests_waiting=self.gate.num_waiting,
            short_tokens=self.workers.short_tokens,
        )
        for measure, name, bounds, counts in self.metrics.latencies():
            status.latencies.add(
                measure=measure, length_class=name, upper_bounds=bounds, counts=counts
            )
        return status
