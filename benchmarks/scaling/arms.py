"""What is compared: Lengthwise's scaler, and the published rules of others.

Each rule is its source's formula on the signals of this simulation, per role: those of others were
not made for two pools (llm-d says so of its own), so time to first token drives the prefill pool
and time per output token the decode pool. Bounds are the same for all.

No rule is given numbers that its original would not have.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from math import ceil, floor
from typing import Final

from lengthwise_policy.scaling.demand import DemandPolicy
from lengthwise_policy.scaling.policy import ScalingPolicy
from lengthwise_policy.scaling.state import Action, PoolState, Scale
from lengthwise_policy.types import Role
from lengthwise_simulator.scaling.observed import ObservedLoad
from lengthwise_simulator.scaling.scaled_simulation import ScalerController, ScalingController
from scaling.release import COST, OBJECTIVES


class PerRole:
    """A rule for how many replicas one pool should have; None: as it is."""

    def __init__(self, rule: Callable[[], "Rule"]) -> None:
        self._rules: dict[str, Rule] = {}
        self._make = rule

    def decide(self, seen: ObservedLoad) -> list[Action]:
        actions: list[Action] = []
        for state in seen.pools:
            pool = state.pool
            wanted = self._rules.setdefault(pool.name, self._make()).replicas(seen, state)
            if wanted is not None:
                wanted = min(max(wanted, pool.min_replicas), pool.max_replicas)
                if wanted != state.replicas:
                    actions.append(Scale(pool=pool.name, replicas=wanted, rule="bounds", reason=""))
        return actions


class Rule(ABC):
    """One pool's; keeps what it remembers."""

    @abstractmethod
    def replicas(self, seen: ObservedLoad, state: PoolState) -> int | None:
        """None: as it is."""


class Static(Rule):
    """As it began; given Lengthwise's own average, which cannot be known beforehand."""

    def replicas(self, seen: ObservedLoad, state: PoolState) -> int | None:
        return None


class Hpa(Rule):
    """Kubernetes: ceil(replicas * busy share / 0.7), tolerance 0.1; up by 100 % or 4 pods in 15 s,
    down to the largest recommendation of 300 s."""

    TARGET = 0.7

    def __init__(self) -> None:
        self._recommended: deque[tuple[float, int]] = deque()
        self._up_at = -15.0

    def replicas(self, seen: ObservedLoad, state: PoolState) -> int | None:
        ratio = seen.busy_share[state.pool.role] / self.TARGET
        ready = seen.ready(state.pool.role)
        wanted = state.replicas if abs(ratio - 1) <= 0.1 else ceil(ready * ratio)
        self._recommended.append((seen.now, wanted))
        while self._recommended[0][0] < seen.now - 300:
            self._recommended.popleft()
        if wanted > state.replicas:
            if seen.now - self._up_at < 15:
                return None
            self._up_at = seen.now
            return min(wanted, max(2 * state.replicas, state.replicas + 4))
        return min(max(number for _, number in self._recommended), state.replicas)


class Kpa(Rule):
    """AIBrix: ceil(mean / target) of a stable window of 180 s; in panic (that of 60 s is at least
    2 times what there is) the larger one of both, never down; at most times 2, at least half; down
    only 300 s after the last change up. Prompts in prefill per worker, target 1; KV usage, 0.5."""

    def __init__(self) -> None:
        self._values: deque[tuple[float, float]] = deque()
        self._panic_at = -180.0
        self._up_at = -300.0

    def replicas(self, seen: ObservedLoad, state: PoolState) -> int | None:
        if state.pool.role == "prefill":
            inside = sum(pod.running_requests for pod in state.pods if pod.role == "prefill")
            value = float(inside)
        else:
            value = seen.decode.blocks_predicted / seen.decode.blocks_per_worker / 0.5
        self._values.append((seen.now, value))
        while self._values[0][0] < seen.now - 180:
            self._values.popleft()
        ready = max(seen.ready(state.pool.role), 1)
        recent = [value for at, value in self._values if at >= seen.now - 60]
        stable = sum(value for _, value in self._values) / len(self._values)
        panic = sum(recent) / len(recent)
        if panic / ready >= 2.0:
            self._panic_at = seen.now
        wanted = ceil(stable)
        if seen.now - self._panic_at < 60:
            wanted = max(ceil(stable), ceil(panic), state.replicas)
        if abs(wanted / state.replicas - 1) <= 0.1:
            return None
        wanted = min(max(wanted, state.replicas // 2), state.replicas * 2)
        if wanted > state.replicas:
            self._up_at = seen.now
        elif seen.now - self._up_at < 300:
            return None
        return wanted


class LlmD(Rule):
    """llm-d, SLO-aware: s = P90 / objective, at most 2, mean of 45 s; with c = ready / provisioned,
    above 0.55 n + ceil(n (s c / 0.55 - 1)), below 0.40 n - floor(n (1 - s / 0.40)); up by 100 % or
    4 pods in 60 s, down by 1 in 120 s."""

    def __init__(self) -> None:
        self._scores: deque[tuple[float, float]] = deque()
        self._up_at = -60.0
        self._down_at = -120.0

    def replicas(self, seen: ObservedLoad, state: PoolState) -> int | None:
        self._scores.append((seen.now, min(self._score(seen, state.pool.role), 2.0)))
        while self._scores[0][0] < seen.now - 45:
            self._scores.popleft()
        score = sum(score for _, score in self._scores) / len(self._scores)
        number = state.replicas
        share = seen.ready(state.pool.role) / number
        if score > 0.55 and seen.now - self._up_at >= 60:
            wanted = number + ceil(number * (score * share / 0.55 - 1))
            if wanted > number:
                self._up_at = seen.now
                return min(wanted, max(2 * number, number + 4))
        if score < 0.40 and seen.now - self._down_at >= 120:
            wanted = number - floor(number * (1 - score / 0.40))
            if wanted < number:
                self._down_at = seen.now
                return number - 1
        return None

    @staticmethod
    def _score(seen: ObservedLoad, role: Role) -> float:
        if role == "decode":
            return (seen.decode.tpot_seconds or 0.0) / OBJECTIVES.tpot_seconds
        return max(
            (ttft or 0.0) / OBJECTIVES.ttft_seconds(length)
            for length, ttft in seen.prefill.ttft_seconds.items()
        )


class Dynamo(Rule):
    """Dynamo's SLA planner, throughput loop of 180 s, constant predictor: prefill
    ceil(requests * isl * min(1, TTFT / expected) / interval / profiled rate), decode
    ceil(requests * osl / interval / profiled rate at ITL target / (ITL / expected))."""

    INTERVAL = 180.0

    def __init__(self) -> None:
        self._decided_at = 0.0

    def replicas(self, seen: ObservedLoad, state: PoolState) -> int | None:
        arrived = sum(seen.prefill.arrived_tokens.values())
        if seen.now - self._decided_at < self.INTERVAL or not arrived:
            return None
        self._decided_at = seen.now
        if state.pool.role == "prefill":
            # The correction is at least 1 here: the profile is exact, and there are no hits.
            return ceil(arrived * COST.token_seconds)
        if not seen.finished:
            return None
        number = len(seen.finished)
        prompt = sum(each.request.prompt_tokens for each in seen.finished) / number
        output = sum(each.generated for each in seen.finished) / number
        each = COST.decode_request_seconds + COST.decode_context_seconds * (prompt + output / 2)
        itl = OBJECTIVES.tpot_seconds
        rate = (itl - COST.step_seconds) / each / itl
        requests = arrived / prompt
        return ceil(requests * output / rate)


def lengthwise() -> ScalerController:
    """The code that scales in a cluster."""
    return ScalerController(ScalingPolicy(), DemandPolicy(objectives=OBJECTIVES))


ARMS: Final[Mapping[str, Callable[[], ScalingController]]] = {
    "lengthwise": lengthwise,
    "hpa": lambda: PerRole(Hpa),
    "aibrix kpa": lambda: PerRole(Kpa),
    "llm-d slo-aware": lambda: PerRole(LlmD),
    "dynamo throughput": lambda: PerRole(Dynamo),
}
