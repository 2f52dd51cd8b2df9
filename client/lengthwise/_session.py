"""One generation across routers: what has been received, what to request next, what to return.

Where a router is lost in the middle, the next attempt names the tokens that have arrived, with the
same request id and seed, and goes on at the next index. Tokens are a function of (seed, position),
and text of the tokens, so the completion is the one that the lost router would have given.

Invariant: tokens are returned in the order of their indices, each once; a repeated index is
dropped, a skipped one is an error.
"""

from lengthwise._retries import Attempt, Retries
from lengthwise._wire import responses
from lengthwise.types import Chunk, Completion, Token
from lengthwise_wire.errors import InternalError, LengthwiseError
from lengthwise_wire.v1 import inference_pb2 as pb


class Session:
    """Life: `begin`, `receive` each response; where that breaks, `fail` and `begin` again; until
    `finished`."""

    def __init__(self, request: pb.GenerateRequest, retries: Retries) -> None:
        self.finished = False
        self._request = request
        self._retries = retries
        self._num_tokens = 0
        self._wants_logprobs = request.HasField("top_logprobs")

    def begin(self, now: float) -> tuple[Attempt, pb.GenerateRequest]:
        """The next attempt and its request, which must not be kept. Errors: DeadlineExceeded."""
        return self._retries.begin(now), self._request

    def receive(self, response: pb.GenerateResponse) -> Chunk | None:
        """None for a keepalive, and for what was received before.

        Errors: InternalError when the response contradicts what came before it.
        """
        if response.request_id:
            self._request.request_id = response.request_id
        if response.HasField("seed"):
            self._adopt_seed(response.seed)
        if response.token_ids and response.index != self._num_tokens:
            self._check_duplicate(response)
            return None
        tokens = self._tokens(response)
        if tokens:
            self._request.resume.token_ids.extend(response.token_ids)
            self._num_tokens += len(tokens)
            self._retries.progress()
        finish_reason = None
        if response.finish_reason:
            finish_reason = responses.finish_reason(response.finish_reason)
            self.finished = True
        elif not tokens and not response.text:
            return None
        return Chunk(
            text=response.text,
            tokens=tokens,
            request_id=self._request.request_id,
            seed=self._seed,
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
        if not self.finished:
            raise InternalError(
                f"request {self._request.request_id}: the stream ended after {self._num_tokens}"
                " tokens without a finish reason; expected one in the last message"
            )

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
        known = self._request.resume.token_ids[first:end]
        if end > self._num_tokens or response.finish_reason or known != list(response.token_ids):
            raise self._contradiction(f"tokens {first} to {end - 1}", f"token {self._num_tokens}")

    def _tokens(self, response: pb.GenerateResponse) -> tuple[Token, ...]:
        ids = response.token_ids
        if not self._wants_logprobs:
            return tuple(Token(index=self._num_tokens + i, id=id) for i, id in enumerate(ids))
        if len(response.logprobs) != len(ids):
            raise self._contradiction(f"{len(response.logprobs)} log probabilities", f"{len(ids)}")
        return tuple(
            Token(index=self._num_tokens + i, id=id, logprobs=responses.token_logprobs(logprobs))
            for i, (id, logprobs) in enumerate(zip(ids, response.logprobs, strict=True))
        )

    def _contradiction(self, got: str, expected: str) -> InternalError:
        return InternalError(
            f"request {self._request.request_id}: the server sent {got}, expected {expected}"
        )


def join(chunks: list[Chunk]) -> Completion:
    """All chunks of a finished session as one value."""
    last = chunks[-1]
    assert last.finish_reason, "the session was not finished"
    assert last.usage
    assert last.timings
    return Completion(
        text="".join(chunk.text for chunk in chunks),
        tokens=tuple(token for chunk in chunks for token in chunk.tokens),
        finish_reason=last.finish_reason,
        usage=last.usage,
        timings=last.timings,
        request_id=last.request_id,
        seed=last.seed,
    )
