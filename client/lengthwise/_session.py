"""One generation across routers: what has been received, what to request next, what to return.

Where a router is lost in the middle, the next attempt names the tokens that have arrived, with the
same request id and seed, and goes on at the next index. Tokens are a function of (seed, position),
and text of the tokens, so the completion is the one that the lost router would have given.

Invariant: tokens are returned in the order of their indices, each once; a repeated index is
dropped, a skipped one is an error.
"""

from collections.abc import MutableSequence, Sequence
from dataclasses import replace

from lengthwise._retries import Attempt, Retries
from lengthwise._wire import responses
from lengthwise._wire.parts import ReceivedParts
from lengthwise.types import Chunk, Completion, Token
from lengthwise_wire.errors import InternalError, LengthwiseError, NotSupported
from lengthwise_wire.v1 import inference_pb2 as pb


class Session:
    """Life: `begin`, `receive` each response; where that breaks, `fail` and `begin` again; until
    `finished`."""

    def __init__(self, request: pb.GenerateRequest, retries: Retries) -> None:
        self._request = request
        self._retries = retries
        num_choices = max(request.n, 1)
        self._num_tokens = [0] * num_choices
        self._unfinished = set(range(num_choices))
        for _ in range(1, num_choices):
            request.resume.further_choices.add()
        self._wants_logprobs = request.HasField("top_logprobs")
        self._parts = [ReceivedParts() for _ in range(num_choices)]
        self._has_parts = request.HasField("parts")

    @property
    def finished(self) -> bool:
        """Whether every choice is."""
        return not self._unfinished

    def begin(self, now: float) -> tuple[Attempt, pb.GenerateRequest]:
        """The next attempt and its request, which must not be kept. Errors: DeadlineExceeded."""
        return self._retries.begin(now), self._request

    def receive(self, response: pb.GenerateResponse) -> Chunk | None:
        """None for a keepalive, and for what was received before.

        Errors: InternalError when the response contradicts what came before it.
        """
        choice = response.choice
        if choice >= len(self._num_tokens):
            raise self._contradiction(f"choice {choice}", f"{len(self._num_tokens)} choices")
        if response.request_id and not choice:
            self._request.request_id = response.request_id
        if response.HasField("seed"):
            self._adopt_seed((response.seed - choice) % 2**64)
        if response.token_ids and response.index != self._num_tokens[choice]:
            self._check_duplicate(response)
            return None
        if choice not in self._unfinished:
            return None
        tokens = self._tokens(response)
        if tokens:
            self._received(choice).extend(response.token_ids)
            self._num_tokens[choice] += len(tokens)
            self._retries.progress()
        finish_reason = None
        if response.finish_reason:
            finish_reason = responses.finish_reason(response.finish_reason)
            self._unfinished.remove(choice)
        elif not tokens and not response.text:
            return None
        pieces = self._parts[choice].take(response.parts)
        return Chunk(
            text=response.text,
            content=pieces.content if self._has_parts else response.text,
            reasoning=pieces.reasoning,
            tool_call_deltas=pieces.tool_call_deltas,
            tool_calls=pieces.tool_calls,
            tokens=tokens,
            request_id=f"{self._request.request_id}{f'-{choice}' * (choice > 0)}",
            seed=None if self._seed is None else (self._seed + choice) % 2**64,
            choice=choice,
            finish_reason=finish_reason,
            usage=responses.usage(response.usage) if finish_reason else None,
            timings=responses.timings(response.timings) if finish_reason else None,
        )

    def fail(self, error: LengthwiseError, now: float) -> float:
        """How many seconds to wait before the next `begin`. Errors: the given one, when it is
        final."""
        # What goes wrong after the last message takes nothing away from the completion.
        return 0.0 if self.finished else self._retries.fail(error, now)

    def ended(self) -> None:
        """To be called when a stream ended with status OK. Errors: InternalError, unless
        finished."""
        if self.finished:
            return
        if self._unfinished == set(range(1, len(self._num_tokens))):
            raise NotSupported(
                "n: the router has sent one choice alone; upgrade it, or ask for one at a time"
            )
        raise InternalError(
            f"request {self._request.request_id}: the stream ended after {sum(self._num_tokens)}"
            " tokens without a finish reason; expected one in the last message of each choice"
        )

    def _received(self, choice: int) -> MutableSequence[int]:
        resume = self._request.resume
        return resume.further_choices[choice - 1].ids if choice else resume.token_ids

    @property
    def _seed(self) -> int | None:
        sampling = self._request.sampling
        return sampling.seed if sampling.HasField("seed") else None

    def _adopt_seed(self, seed: int) -> None:
        if self._seed not in (None, seed):
            raise self._contradiction(f"seed {seed}", f"seed {self._seed}")
        self._request.sampling.seed = seed

    def _check_duplicate(self, response: pb.GenerateResponse) -> None:
        first, end = response.index, response.index + len(response.token_ids)
        num_tokens = self._num_tokens[response.choice]
        known = self._received(response.choice)[first:end]
        if end > num_tokens or response.finish_reason or known != list(response.token_ids):
            raise self._contradiction(f"tokens {first} to {end - 1}", f"token {num_tokens}")

    def _tokens(self, response: pb.GenerateResponse) -> tuple[Token, ...]:
        ids, begun = response.token_ids, self._num_tokens[response.choice]
        if not self._wants_logprobs:
            return tuple(Token(index=begun + i, id=id) for i, id in enumerate(ids))
        if len(response.logprobs) != len(ids):
            raise self._contradiction(f"{len(response.logprobs)} log probabilities", f"{len(ids)}")
        return tuple(
            Token(index=begun + i, id=id, logprobs=responses.token_logprobs(logprobs))
            for i, (id, logprobs) in enumerate(zip(ids, response.logprobs, strict=True))
        )

    def _contradiction(self, got: str, expected: str) -> InternalError:
        return InternalError(
            f"request {self._request.request_id}: the server sent {got}, expected {expected}"
        )


def join(chunks: Sequence[Chunk]) -> Completion:
    """All chunks of a finished session as one value."""
    by_choice: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        by_choice.setdefault(chunk.choice, []).append(chunk)
    first, *others = (_joined(by_choice[choice]) for choice in sorted(by_choice))
    return replace(first, others=tuple(others)) if others else first


def _joined(chunks: Sequence[Chunk]) -> Completion:
    last = chunks[-1]
    assert last.finish_reason, "the session was not finished"
    assert last.usage
    assert last.timings
    return Completion(
        text="".join(chunk.text for chunk in chunks),
        content="".join(chunk.content for chunk in chunks),
        reasoning="".join(chunk.reasoning for chunk in chunks),
        tool_calls=tuple(call for chunk in chunks for call in chunk.tool_calls),
        tokens=tuple(token for chunk in chunks for token in chunk.tokens),
        finish_reason=last.finish_reason,
        usage=last.usage,
        timings=last.timings,
        request_id=last.request_id,
        seed=last.seed,
    )
