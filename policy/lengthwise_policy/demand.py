"""How many workers the work of a group needs: the largest of a few terms, each with its reason.

Work is counted where it arrives, never where it leaves: what leaves an overloaded worker is what
the worker can do. Prefill, with W the worker-seconds of work that arrive per second:

    throughput   W / utilisation
    queue        W + queued worker-seconds / clear_seconds
    latency      W + r (N - W)            r = queueing / what the objective leaves for it

An M/G/1 queue waits in inverse proportion to its spare capacity, so N - W has to grow r times. The
time that the prefill itself takes is no queueing: no number of workers shortens it. r below 1 says
with the same formula how many workers could go.

Decode, with B* the requests at which a step takes the objective, (tpot - t0) / (d1 + d2 context):

    memory       blocks predicted and waited for / blocks of a worker
    slots        running and queued requests / B*
    token rate   generated tokens per second * tpot / B*
    latency      N (measured - t0) / (tpot - t0)

Slots and token rate meet at the objective: below it requests run shorter than they would there,
and slots promise too much; above it the rate saturates.

The rule: pure arithmetic, and every result is finite. ValueError for a number that is negative or
NaN: unknown is no number, and the callers' to deal with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, inf

from lengthwise_policy.checks import require_at_least
from lengthwise_policy.lengths import LengthClass
from lengthwise_policy.scaling_state import DecodeLoad, Demand, PrefillLoad

# What is measured under a wrong guess, or while pods start, may be far off. The next decision sees
# what the last one changed, so a bounded step only takes longer (llm-d clamps at the same).
MAX_LATENCY_RATIO = 2.0

# Workers busy for less than that do not wait for capacity, whatever they wait for.
MIN_BUSY_SHARE = 0.1

# Of the objective; queueing beyond it counts as too much even where prompts take so long by
# themselves that none can meet the objective.
MIN_QUEUE_SHARE = 0.25

Term = tuple[float, str]
"""Workers, and "rule: numbers"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """What latency is wanted, and how busy workers may be."""

    ttft_seconds: Mapping[LengthClass, float]  # 90th percentile
    tpot_seconds: float  # 90th percentile
    utilisation: float = 0.7  # of a prefill worker's time
    clear_seconds: float = 30.0  # in which a prefill queue has to be gone
    decode_utilisation: float = 0.85  # of the requests at which a step takes the objective
    memory_utilisation: float = 0.9  # of the KV blocks that may be predicted to be used

    def __post_init__(self) -> None:
        for length, seconds in self.ttft_seconds.items():
            _require_above_zero(f"ttft_seconds[{length}]", seconds)
        for name in ("tpot_seconds", "clear_seconds"):
            _require_above_zero(name, getattr(self, name))
        for name in ("utilisation", "decode_utilisation", "memory_utilisation"):
            share = getattr(self, name)
            if not 0 < share <= 1:
                raise ValueError(f"{name}: expected above 0 and at most 1, got {share}")


def prefill_demand(load: PrefillLoad, objectives: Objectives, workers: int) -> Demand:
    """`workers`: those that serve the group now."""
    _check_prefill(load)
    busy = sum(
        tokens * load.token_seconds.get(length, 0.0)
        for length, tokens in load.arrived_tokens.items()
    )
    queued = sum(
        tokens * load.token_seconds.get(length, 0.0)
        for length, tokens in load.queued_tokens.items()
    )
    rates = ", ".join(
        f"{tokens:.0f} {length} tokens/s" for length, tokens in load.arrived_tokens.items()
    )
    terms = [
        (
            busy / objectives.utilisation,
            f"throughput: {rates or 'no tokens'} keep {busy:.2f} workers busy, of which "
            f"{objectives.utilisation:.0%} are planned with",
        ),
        (
            busy + queued / objectives.clear_seconds,
            f"queue: {queued:.1f} s of work wait, beside {busy:.2f} workers' that arrives",
        ),
        _ttft_term(load, objectives, busy, workers),
        _waiting_term(load.waiting_requests, workers),
    ]
    is_idle = not (
        any(load.arrived_tokens.values())
        or any(load.queued_tokens.values())
        or load.waiting_requests
    )
    return _largest(terms, is_idle)


def decode_demand(load: DecodeLoad, objectives: Objectives, workers: int) -> Demand:
    """`workers`: those that serve now."""
    _check_decode(load)
    requests = load.running_requests + load.queued_requests
    terms = [_waiting_term(load.waiting_requests, workers)]
    if load.blocks_per_worker > 0:
        wanted = load.blocks_predicted + ceil(load.queued_tokens / load.block_size)
        blocks = load.blocks_per_worker * objectives.memory_utilisation
        why = f"memory: {wanted:.0f} KV blocks, {blocks:.0f} of a worker are planned with"
        terms.append((wanted / blocks, why))
    slots = slots_at(load, objectives.tpot_seconds)
    if slots is not None and slots >= 1:
        planned = slots * objectives.decode_utilisation
        why = f"slots: {requests:.1f} requests, {planned:.1f} a worker"
        terms.append((requests / planned, why))
        rate = planned / objectives.tpot_seconds
        why = f"token rate: {load.generated_tokens:.0f} tokens/s, {rate:.0f} a worker"
        terms.append((load.generated_tokens / rate, why))
    if slots is None or slots >= 1:
        # Otherwise one request alone takes longer than the objective: workers do not help.
        terms.append(_tpot_term(load, objectives, requests, workers))
    is_idle = not (requests or load.generated_tokens or load.waiting_requests)
    return _largest(terms, is_idle)


def slots_at(load: DecodeLoad, tpot_seconds: float) -> float | None:
    """Requests of the present contexts with which a step takes so long; None: cost unknown."""
    cost, requests = load.cost, load.running_requests + load.queued_requests
    if cost is None:
        return None
    context = (load.context_tokens + load.queued_tokens) / requests if requests else 0.0
    each = cost.decode_request_seconds + cost.decode_context_seconds * context
    left = tpot_seconds - cost.step_seconds
    if left <= 0:
        return 0.0
    return left / each if each > 0 else inf


def _ttft_term(load: PrefillLoad, objectives: Objectives, busy: float, workers: int) -> Term:
    ratio, why = 0.0, "latency: no first tokens"
    for length, ttft in load.ttft_seconds.items():
        queueing = load.queue_seconds.get(length)
        if ttft is None or queueing is None:
            continue
        queueing = min(queueing, ttft)
        objective = objectives.ttft_seconds[length]
        left = max(objective - (ttft - queueing), MIN_QUEUE_SHARE * objective)
        if queueing / left >= ratio:
            ratio = queueing / left
            why = (
                f"latency: {length} prompts wait {queueing:.3f} s of the {ttft:.3f} s to their "
                f"first token, which may take {objective:g} s"
            )
    there = workers if load.mean_workers is None else load.mean_workers
    needed = busy + min(ratio, MAX_LATENCY_RATIO) * max(there - busy, 0.0)
    return min(needed, busy / MIN_BUSY_SHARE), why


def _tpot_term(load: DecodeLoad, objectives: Objectives, requests: float, workers: int) -> Term:
    if load.tpot_seconds is None:
        return 0.0, "latency: no second tokens"
    step = 0.0 if load.cost is None else load.cost.step_seconds
    growing = max(load.tpot_seconds - step, 0.0)
    ratio = growing / (objectives.tpot_seconds - step)
    there = workers if load.mean_workers is None else load.mean_workers
    # A request runs on one worker: more workers than requests make nothing faster.
    needed = min(there * min(ratio, MAX_LATENCY_RATIO), requests)
    return needed, (
        f"latency: {load.tpot_seconds:.4f} s per token, which may take "
        f"{objectives.tpot_seconds:g} s"
    )


def _waiting_term(waiting: float, workers: int) -> Term:
    """Requests that wait at routers while somebody serves wait for the other role."""
    return float(waiting > 0 and not workers), f"waiting: {waiting:.0f} requests, no worker"


def _largest(terms: list[Term], is_idle: bool) -> Demand:
    """The first of the largest; "idle" when nothing is needed."""
    workers, reason = max(terms, key=lambda term: term[0])
    if is_idle:
        return Demand(workers=0.0, reason="idle: nothing arrives, runs or waits", is_idle=True)
    return Demand(workers=workers, reason=reason, is_idle=False)


def _check_prefill(load: PrefillLoad) -> None:
    for name in (
        "arrived_tokens",
        "token_seconds",
        "queued_tokens",
        "ttft_seconds",
        "queue_seconds",
    ):
        for length, value in getattr(load, name).items():
            if value is not None:
                _require_finite(f"{name}[{length}]", value)
    _require_finite("waiting_requests", load.waiting_requests)
    _require_finite("mean_workers", load.mean_workers or 0.0)


def _check_decode(load: DecodeLoad) -> None:
    for name in (
        "running_requests",
        "context_tokens",
        "queued_requests",
        "queued_tokens",
        "blocks_predicted",
        "blocks_per_worker",
        "generated_tokens",
        "waiting_requests",
    ):
        _require_finite(name, getattr(load, name))
    require_at_least("block_size", load.block_size, 1)
    _require_finite("tpot_seconds", load.tpot_seconds or 0.0)
    _require_finite("mean_workers", load.mean_workers or 0.0)


def _require_finite(field: str, got: float) -> None:
    require_at_least(field, got, 0.0)
    if got == inf:
        raise ValueError(f"{field}: expected a finite number, got {got}")


def _require_above_zero(field: str, got: float) -> None:
    if not 0 < got < inf:
        raise ValueError(f"{field}: expected a finite number above 0, got {got}")
