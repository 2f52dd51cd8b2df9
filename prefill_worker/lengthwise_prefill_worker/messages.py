"""Commands to the prefill engine, and their outcomes."""

from dataclasses import dataclass

from lengthwise_engine.runner.sampler import SampledToken, SamplingState
from lengthwise_policy.length_class import LengthClass
from lengthwise_policy.prefill.queue import PrefillJob
from lengthwise_policy.types import RequestId
from lengthwise_worker.adapters.lease import AdapterLease
from lengthwise_worker.messages import Release, RequestExpired, RequestRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillWork:
    """A prompt as the engine needs it."""

    job: PrefillJob
    sampling: SamplingState
    sent_from: int | None
    """The KV of the tokens from here on goes to a decode worker, which has the others; None: of
    none. A multiple of the block size."""
    adapter: AdapterLease | None = None


Command = PrefillWork | Release


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """A prompt is complete; this is its first token."""

    request_id: RequestId
    token: SampledToken
    queue_seconds: float
    prefill_seconds: float
    num_cached_tokens: int
    length: LengthClass
    reason: str
    """Of the batch with its first chunk."""


Outcome = Computed | RequestRefused | RequestExpired
