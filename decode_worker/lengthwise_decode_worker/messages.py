"""Commands to the decode engine, and their outcomes."""

from dataclasses import dataclass, field

from lengthwise_engine.runner.sampler import SamplingState
from lengthwise_policy.decode.request import Grant, Reservation
from lengthwise_policy.kv.prefix_cache import BlockHash
from lengthwise_policy.types import RequestId
from lengthwise_worker.adapters.lease import AdapterLease
from lengthwise_worker.messages import Release, RequestExpired, RequestRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeWork:
    """A request as the engine needs it."""

    reservation: Reservation
    salt: bytes
    """What the names of its blocks begin with."""
    router_id: str
    number: int
    """Names the reservation at its router."""
    token_ids: list[int]
    """The whole sequence; grows. `sampling.token_ids` is this very list."""
    sampling: SamplingState
    stop_token_ids: frozenset[int]
    adapter: AdapterLease | None = None
    hashes: list[BlockHash] = field(init=False)
    """Of the sequence's full blocks; grows."""

    # Read for every token.
    request_id: RequestId = field(init=False)
    first_length: int = field(init=False)
    """Of the sequence when this worker generates its first token."""
    last_length: int = field(init=False)
    """Of the sequence when it has all the tokens that were reserved for."""

    def __post_init__(self) -> None:
        derive, reservation = object.__setattr__, self.reservation
        derive(self, "hashes", list(reservation.hashes))
        derive(self, "request_id", reservation.request_id)
        first_length = reservation.num_tokens + (not reservation.local)
        derive(self, "first_length", first_length)
        derive(self, "last_length", reservation.num_tokens + reservation.max_new_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """All KV of the prompt is in the reserved blocks."""

    request_id: RequestId
    first_token_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseReceiving:
    """As `Release`, but a transfer may still write to the blocks: they are held until `Drained`."""

    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """No transfer writes to the blocks of this released request any more."""

    request_id: RequestId


Command = DecodeWork | Commit | Release | ReleaseReceiving | Drained


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The request generated its last token and is released."""

    request_id: RequestId


Outcome = Grant | RequestRefused | RequestExpired | Finished
