"""How many workers the work of a group needs: the largest of a few terms, each with its reason.

Work is counted where it arrives, never where it leaves: what leaves an overloaded worker is what
the worker can do. Prefill, with W the worker-seconds of work that arrive per second:

    throughput   W / utilisation
    queue        W of the last few scrapes + queued worker-seconds / clear_seconds
    latency      W + r (N - W)            r = queueing / what the objective leaves for it

The first leaves room for what varies within a minute; what came in the last seconds has varied
already, and shows a surge early. An M/G/1 queue waits in inverse proportion to its spare capacity,
so N - W has to grow r times. The time that the prefill itself takes is no queueing: no number of
workers shortens it. r below 1 gives with the same formula how many workers could go.

Decode, with T the objective, B* = (T - t0) / (d1 + d2 context) the requests at which a step takes
T, and L the mean output:

    memory       blocks predicted and waited for / blocks of a worker
    slots        (E + (requests - E) min(1, L T / clear_seconds)) / B*
                                          E = arrivals per second * L * T, by Little's law
    token rate   generated tokens per second * T / B*
    latency      N (measured - t0) / (T - t0)

E is there at the objective whatever the load now; what is there beyond it is a backlog, to be gone
in time. Where L is unknown, slots are requests / B*, and the token rate has to show what shorter
steps hide.

Percentiles are of a window. Workers that came within it have not shown in it what they can do, so
until they have, latency asks for no more than there are; and what is long over is not answered.

Every result is finite. ValueError for a number that is negative or NaN: unknown is no number.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import ceil, inf

from lengthwise_policy.checks import require_at_least
from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.length_class import LengthClass
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.scaling.state import DecodeLoad, Demand, DemandRule, PrefillLoad, Reason

# Latency grows without bound near saturation and shows little of what is needed. The next window
# shows what the last step changed, so a bounded one only takes longer (llm-d clamps at the same).
MAX_LATENCY_RATIO = 2.0

# The 90th percentile of an exponentially distributed wait is 2.3 times its mean, so the queue of
# this moment bounds what a percentile of the past can still show; rounded up for queues that waver.
WAIT_PERCENTILE = 3.0

# A step may take so many times what the cost model predicts of the present requests, by imbalance
# and by prompts computed beside them; what was measured beyond it was of more requests than there
# are.
STEP_TOLERANCE = 1.5

# Workers busy for less than that do not wait for capacity, whatever they wait for.
MIN_BUSY_SHARE = 0.1

# Of the objective; queueing beyond it counts as too much even where prompts take so long by
# themselves that none can meet the objective.
MIN_QUEUE_SHARE = 0.25

# Workers by which those of now exceed the window's mean before some count as new: one that came
# five sixths of the window ago.
NEW_WORKERS = 1 / 6

Term = tuple[float, DemandRule, str]
"""Workers, and why so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandPolicy:
    """What latency is wanted of the 90th percentile, and how busy workers may be."""

    objectives: Objectives
    # Of a prefill worker's time. In an earlier simulation of the scaler 0.8 needs 5 % fewer workers
    # and meets the objectives of 1 % to 2 % fewer requests; 0.6 needs 6 % more, for 1 % more.
    utilisation: float = 0.7
    clear_seconds: float = 30.0  # in which a backlog has to be gone
    # Of the requests at which a step takes the objective. There, 0.85 needs 3 % fewer workers and
    # misses the objective more often after every rise; 0.7 gains little more.
    decode_utilisation: float = 0.75
    memory_utilisation: float = 0.9  # of the KV blocks that may be predicted to be used

    def __post_init__(self) -> None:
        if not 0 < self.clear_seconds < inf:
            raise ValueError(
                f"clear_seconds: expected a finite number above 0, got {self.clear_seconds}"
            )
        for name in ("utilisation", "decode_utilisation", "memory_utilisation"):
            share = getattr(self, name)
            if not 0 < share <= 1:
                raise ValueError(f"{name}: expected above 0 and at most 1, got {share}")


def prefill_demand(load: PrefillLoad, policy: DemandPolicy, workers: int) -> Demand:
    """`workers`: those that serve the group now."""
    _check(load)
    busy = _seconds(load, load.arrived_tokens)
    recent = _seconds(load, load.recent_tokens or load.arrived_tokens)
    queued = _seconds(load, load.queued_tokens)
    rates = ", ".join(
        f"{tokens:.0f} {length} tokens/s" for length, tokens in load.arrived_tokens.items()
    )
    terms: list[Term] = [
        (
            busy / policy.utilisation,
            "throughput",
            f"{rates or 'no tokens'} keep {busy:.2f} workers busy, of which "
            f"{policy.utilisation:.0%} are planned with",
        ),
        (
            recent + queued / policy.clear_seconds,
            "queue",
            f"{queued:.1f} s of work wait, beside {recent:.2f} workers' that arrives",
        ),
        _ttft_term(load, policy, busy, queued, workers),
        _waiting_term(load.waiting_requests, workers),
    ]
    is_idle = not (
        any(load.arrived_tokens.values())
        or any(load.recent_tokens.values())
        or any(load.queued_tokens.values())
        or load.waiting_requests
    )
    return _largest(terms, is_idle)


def decode_demand(load: DecodeLoad, policy: DemandPolicy, workers: int) -> Demand:
    """`workers`: those that serve now."""
    _check(load)
    require_at_least("block_size", load.block_size, 1)
    requests = load.running_requests + load.queued_requests
    terms = [_waiting_term(load.waiting_requests, workers)]
    if load.blocks_per_worker >= 1:
        wanted = load.blocks_predicted + ceil(load.queued_tokens / load.block_size)
        blocks = load.blocks_per_worker * policy.memory_utilisation
        why = f"{wanted:.0f} KV blocks, {blocks:.0f} of a worker are planned with"
        terms.append((wanted / blocks, "memory", why))
    slots = slots_at(load, policy.objectives.tpot_seconds)
    decoding = 0.0
    if slots is not None and slots >= 1:
        planned = slots * policy.decode_utilisation
        wanted = _slots_wanted(load, policy, requests)
        why = f"{wanted:.1f} for {requests:.0f} requests, {planned:.1f} a worker"
        terms.append((wanted / planned, "slots", why))
        rate = planned / policy.objectives.tpot_seconds
        why = f"{load.generated_tokens:.0f} tokens/s, {rate:.0f} a worker"
        terms.append((load.generated_tokens / rate, "token rate", why))
        decoding = max(wanted / planned, load.generated_tokens / rate)
    if load.prompt_tokens and load.cost is not None:
        terms.append(_prompts_term(load, load.cost, policy, decoding))
    if slots is None or slots >= 1:
        # Otherwise one request alone takes longer than the objective: workers do not help.
        terms.append(_tpot_term(load, policy, requests, slots, workers))
    is_idle = not (
        requests
        or load.generated_tokens
        or load.waiting_requests
        or load.arrived_requests
        or load.prompt_tokens
    )
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


def _seconds(load: PrefillLoad, tokens: Mapping[LengthClass, float]) -> float:
    """Of one worker, for these tokens."""
    return sum(number * load.token_seconds.get(length, 0.0) for length, number in tokens.items())


def _slots_wanted(load: DecodeLoad, policy: DemandPolicy, requests: float) -> float:
    """Requests that run at the objective, and the part of a backlog that has to run now."""
    if load.output_tokens is None:
        return requests
    residence = load.output_tokens * policy.objectives.tpot_seconds
    expected = load.arrived_requests * residence
    share = min(1.0, residence / policy.clear_seconds)
    return expected + max(requests - expected, 0.0) * share


def _ttft_term(
    load: PrefillLoad, policy: DemandPolicy, busy: float, queued: float, workers: int
) -> Term:
    ratio, why = 0.0, "no first tokens"
    for length, ttft in load.ttft_seconds.items():
        queueing = load.queue_seconds.get(length)
        if ttft is None or queueing is None:
            continue
        queueing = min(queueing, ttft)
        objective = policy.objectives.ttft_seconds(length)
        left = max(objective - (ttft - queueing), MIN_QUEUE_SHARE * objective)
        lasting = min(queueing, WAIT_PERCENTILE * queued / max(workers, 1))
        if lasting / left >= ratio:
            ratio = lasting / left
            why = (
                f"{length} prompts wait {queueing:.3f} s of the {ttft:.3f} s to their "
                f"first token, which may take {objective:g} s"
            )
    there = workers if load.mean_workers is None else load.mean_workers
    needed = busy + min(ratio, MAX_LATENCY_RATIO) * max(there - busy, 0.0)
    return min(_seen_through(needed, there, workers), busy / MIN_BUSY_SHARE), "latency", why


def _prompts_term(load: DecodeLoad, cost: CostModel, policy: DemandPolicy, decoding: float) -> Term:
    """Where decode workers compute every prompt, beside `decoding` workers' tokens."""
    busy = load.prompt_tokens * cost.token_seconds
    why = (
        f"{load.prompt_tokens:.0f} prompt tokens/s keep {busy:.2f} workers busy, of which"
        f" {policy.utilisation:.0%} are planned with, beside {decoding:.2f} that decode"
    )
    return busy / policy.utilisation + decoding, "throughput", why


def _tpot_term(
    load: DecodeLoad, policy: DemandPolicy, requests: float, slots: float | None, workers: int
) -> Term:
    if load.tpot_seconds is None:
        return 0.0, "latency", "no second tokens"
    step = 0.0 if load.cost is None else load.cost.step_seconds
    ratio = max(load.tpot_seconds - step, 0.0) / (policy.objectives.tpot_seconds - step)
    if slots is not None:
        ratio = min(ratio, STEP_TOLERANCE * requests / max(workers, 1) / slots)
    there = workers if load.mean_workers is None else load.mean_workers
    needed = _seen_through(there * min(ratio, MAX_LATENCY_RATIO), there, workers)
    # A request runs on one worker: more workers than requests make nothing faster.
    why = (
        f"{load.tpot_seconds:.4f} s per token, which may take {policy.objectives.tpot_seconds:g} s"
    )
    return min(needed, requests), "latency", why


def _seen_through(needed: float, there: float, workers: int) -> float:
    """No more than the workers there are, while some came within the window."""
    return needed if workers <= there + NEW_WORKERS else min(needed, float(workers))


def _waiting_term(waiting: float, workers: int) -> Term:
    """Requests that wait at routers while the group has workers wait for the other role."""
    return float(waiting > 0 and not workers), "waiting", f"{waiting:.0f} requests, no worker"


def _largest(terms: list[Term], is_idle: bool) -> Demand:
    """The first of the largest; "idle" when nothing is needed."""
    workers, rule, why = max(terms, key=lambda term: term[0])
    if is_idle:
        workers, rule, why = 0.0, "idle", "nothing arrives, runs or waits"
    return Demand(workers=workers, reason=Reason(rule, why), is_idle=is_idle)


def _check(load: PrefillLoad | DecodeLoad) -> None:
    for name in (field.name for field in fields(load)):
        value = getattr(load, name)
        if isinstance(value, Mapping):
            for length, number in value.items():
                _require_finite(f"{name}[{length}]", number)
        elif not isinstance(value, CostModel):
            _require_finite(name, value)


def _require_finite(field: str, got: float | None) -> None:
    if got is None:
        return
    require_at_least(field, got, 0.0)
    if got == inf:
        raise ValueError(f"{field}: expected a finite number, got {got}")
