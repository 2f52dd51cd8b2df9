"""What the event loop tells the engine thread, and what it is told once per step."""

from dataclasses import dataclass

from lengthwise_engine.runner.sampler import SamplingState
from lengthwise_policy.errors import PolicyError
from lengthwise_policy.kv.prefix_cache import BlockHash
from lengthwise_policy.types import RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeWork:
    """A request as the engine needs it. `max_tokens` counts the prompt's first token too."""

    request_id: RequestId
    router_id: str
    reservation: int
    token_ids: list[int]
    """The whole sequence; grows. `sampling.token_ids` is this very list."""
    hashes: list[BlockHash]
    """Of its full blocks; grows."""
    sampling: SamplingState
    stop_token_ids: frozenset[int]
    max_tokens: int
    num_given_tokens: int
    """Tokens that were there before the first one generated for this reservation."""
    deadline_at: float
    local: bool = False
    """The prompt is computed here; otherwise its KV arrives and ends with a `Commit`."""
    returning: bool = False
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """All KV of the prompt is in the reserved blocks."""

    request_id: RequestId
    first_token_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Ends a request in any state; with `receiving`, its blocks are held until `Drained`."""

    request_id: RequestId
    receiving: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    request_id: RequestId


Command = DecodeWork | Commit | Release | Drained


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """The reservation holds these blocks, in the order of its tokens."""

    request_id: RequestId
    block_ids: tuple[int, ...]
    num_cached_tokens: int
    """KV of the first so many is in them already: whole blocks."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    request_id: RequestId
    error: PolicyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """The lease has run out; the request is still to be released."""

    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The request generated its last token and is released."""

    request_id: RequestId


Outcome = Granted | Refused | Expired | Finished
