"""Stand-ins for a router, for the tests of programs that use Lengthwise.

    fake = FakeTransport("Paris.", NoWorkerAvailable("down"), ["Lon", 0.5, "don."])
    with Client(transports=[fake]) as client:
        assert client.generate("Capital of France?").text == "Paris."
        assert fake.requests[0].prompt.text == "Capital of France?"

Every attempt takes the next reply. A reply is a text, an error, or the steps of one attempt: texts,
errors, seconds of silence, and whole responses. A character is a token, with its code point as id;
a request that resumes is sent what comes after the tokens it has. Choices of a request are alike.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence

from lengthwise._grpc.channel import silent
from lengthwise.settings import Timeout
from lengthwise_wire.errors import LengthwiseError, RequestNotFound
from lengthwise_wire.v1 import common_pb2
from lengthwise_wire.v1 import inference_pb2 as pb

Step = str | float | LengthwiseError | pb.GenerateResponse
Reply = str | LengthwiseError | Sequence[Step]

FAKE_SEED = 7
"""The seed of requests that name none."""


class _Script:
    """The replies, and the requests that took them."""

    def __init__(self, *replies: Reply) -> None:
        self.requests: list[pb.GenerateRequest] = []
        """A copy of every attempt's request, in order."""
        self._replies = replies

    def _attempt(
        self, request: pb.GenerateRequest, patience: Timeout
    ) -> Iterator[pb.GenerateResponse | float]:
        """Responses, and seconds to wait. Raises the script's errors."""
        if len(self.requests) == len(self._replies):
            raise LookupError(f"all {len(self._replies)} replies of the fake have been used")
        reply = self._replies[len(self.requests)]
        copy = pb.GenerateRequest()
        copy.CopyFrom(request)
        self.requests.append(copy)
        steps = (reply,) if isinstance(reply, str | LengthwiseError) else reply
        for choice in range(max(copy.n, 1)):
            yield from self._choice(copy, choice, steps, patience)

    def _choice(
        self, request: pb.GenerateRequest, choice: int, steps: Sequence[Step], patience: Timeout
    ) -> Iterator[pb.GenerateResponse | float]:
        """One choice after the other, all of the same reply."""
        sampling = request.sampling
        yield pb.GenerateResponse(
            request_id=request.request_id,
            seed=(sampling.seed if sampling.HasField("seed") else FAKE_SEED) + choice,
            choice=choice,
        )
        num_received, num_sent = len(_received(request, choice)), 0
        for step in steps:
            if isinstance(step, LengthwiseError):
                raise step
            if isinstance(step, float | int):
                yield min(step, patience.silence)
                if step >= patience.silence:
                    raise silent("the fake", patience.silence)
            elif isinstance(step, str):
                first = max(num_received - num_sent, 0)
                if first < len(step):
                    yield _response(request, step[first:], num_sent + first, choice)
                num_sent += len(step)
            else:
                yield step
        yield _last_response(request, num_sent, choice)

    def _tokenized(self, request: pb.TokenizeRequest) -> pb.TokenizeResponse:
        return pb.TokenizeResponse(token_ids=_prompt_ids(request.prompt))

    def _explained(self, request: pb.ExplainRequest) -> pb.ExplainResponse:
        for seen in self.requests:
            if (seen.tenant, seen.request_id) == (request.tenant, request.request_id):
                return _explanation(seen)
        raise RequestNotFound(
            f"request_id: got {request.request_id!r}, expected one of the"
            f" {len(self.requests)} requests of this fake"
        )


class FakeTransport(_Script):
    """For `Client(transports=[...])`."""

    def generate(
        self, request: pb.GenerateRequest, patience: Timeout
    ) -> Generator[pb.GenerateResponse, None, None]:
        for item in self._attempt(request, patience):
            if isinstance(item, float | int):
                time.sleep(item)
            else:
                yield item

    def get_model(self, request: pb.GetModelRequest, patience: Timeout) -> pb.GetModelResponse:
        return _model()

    def list_models(
        self, request: pb.ListModelsRequest, patience: Timeout
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[_model()])

    def tokenize(self, request: pb.TokenizeRequest, patience: Timeout) -> pb.TokenizeResponse:
        return self._tokenized(request)

    def explain(self, request: pb.ExplainRequest, patience: Timeout) -> pb.ExplainResponse:
        return self._explained(request)

    def get_status(self, request: pb.GetStatusRequest, patience: Timeout) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(router_id="fake", models=[pb.ModelStatus(model="fake")])

    def close(self) -> None:
        """Nothing is open."""


class AsyncFakeTransport(_Script):
    """For `AsyncClient(transports=[...])`."""

    async def generate(
        self, request: pb.GenerateRequest, patience: Timeout
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        for item in self._attempt(request, patience):
            if isinstance(item, float | int):
                await asyncio.sleep(item)
            else:
                yield item

    async def get_model(
        self, request: pb.GetModelRequest, patience: Timeout
    ) -> pb.GetModelResponse:
        return _model()

    async def list_models(
        self, request: pb.ListModelsRequest, patience: Timeout
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[_model()])

    async def tokenize(self, request: pb.TokenizeRequest, patience: Timeout) -> pb.TokenizeResponse:
        return self._tokenized(request)

    async def explain(self, request: pb.ExplainRequest, patience: Timeout) -> pb.ExplainResponse:
        return self._explained(request)

    async def get_status(
        self, request: pb.GetStatusRequest, patience: Timeout
    ) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(router_id="fake", models=[pb.ModelStatus(model="fake")])

    async def close(self) -> None:
        """Nothing is open."""


def _received(request: pb.GenerateRequest, choice: int) -> Sequence[int]:
    further = request.resume.further_choices
    return further[choice - 1].ids if choice and further else request.resume.token_ids


def _response(
    request: pb.GenerateRequest, text: str, index: int, choice: int
) -> pb.GenerateResponse:
    parts = [pb.AnswerPart(content=text)] if request.HasField("parts") else []
    return pb.GenerateResponse(
        index=index, token_ids=map(ord, text), text=text, choice=choice, parts=parts
    )


def _last_response(
    request: pb.GenerateRequest, num_tokens: int, choice: int
) -> pb.GenerateResponse:
    prompt_tokens = 0 if choice else len(_prompt_ids(request.prompt))
    return pb.GenerateResponse(
        index=num_tokens,
        choice=choice,
        finish_reason=common_pb2.FINISH_REASON_STOP,
        usage=pb.Usage(prompt_tokens=prompt_tokens, output_tokens=num_tokens),
        timings=pb.PhaseTimings(total_seconds=0.0),
    )


def _explanation(request: pb.GenerateRequest) -> pb.ExplainResponse:
    return pb.ExplainResponse(
        request_id=request.request_id,
        model="fake",
        priority=request.priority,
        prompt_tokens=len(_prompt_ids(request.prompt)),
        max_tokens=request.max_tokens,
        length_class="short",
        admission_reason="fakes take every request",
    )


def _prompt_ids(prompt: pb.Prompt) -> list[int]:
    if prompt.HasField("token_ids"):
        return list(prompt.token_ids.ids)
    texts = [message.content for message in prompt.conversation.messages] or [prompt.text]
    return [ord(character) for text in texts for character in text]


def _model() -> pb.GetModelResponse:
    return pb.GetModelResponse(
        model="fake",
        context_length=4096,
        vocab_size=0x110000,
        has_chat_template=True,
        model_fingerprint="0" * 16,
        default_sampling=common_pb2.SamplingParams(
            temperature=1.0, top_p=1.0, repetition_penalty=1.0
        ),
    )
