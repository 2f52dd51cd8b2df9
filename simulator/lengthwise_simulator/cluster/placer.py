"""Where a router places by what it knows by then: the strategy that serves."""

from collections.abc import Callable
from random import Random

from lengthwise_policy.errors import NoCandidates
from lengthwise_policy.kv.prefix_cache import short_hashes
from lengthwise_policy.length_class import length_class
from lengthwise_policy.placement.blame import Standing
from lengthwise_policy.placement.capacity import exceeded_capacity
from lengthwise_policy.placement.placement import Placement, PlacementInput, PlacementRequest
from lengthwise_policy.placement.strategies import make_strategy
from lengthwise_policy.spreading import OtherRouters
from lengthwise_policy.types import WorkerId
from lengthwise_simulator.cluster.decode_worker import SimulatedDecodeWorker
from lengthwise_simulator.cluster.journey import Journey
from lengthwise_simulator.cluster.picture import FleetPicture
from lengthwise_simulator.cluster.prefill_worker import SimulatedPrefillWorker
from lengthwise_simulator.cluster.spec import ClusterSpec


class Placer:
    """Of one router; the workers as it knows them are in `pictures`."""

    def __init__(self, number: int, cluster: ClusterSpec, clock: Callable[[], float]) -> None:
        self._cluster = cluster
        self._clock = clock
        policies = cluster.policies
        random = Random(f"{cluster.seed}/router {number}").random
        self._strategy = make_strategy(policies.strategy, policies.placement, random)
        self._forecast = make_strategy("predicted_ttft", policies.placement, random)
        self._others = OtherRouters(cluster.routers - 1, random)
        self.pictures = FleetPicture(cluster, number)

    def ask(self, journey: Journey, reserved: WorkerId | None = None) -> PlacementInput:
        """`reserved`: the decode worker that holds blocks for it, and keeps it."""
        now = self._clock()
        views = self.pictures.views(now)
        block_size = self._cluster.block_size
        usable = (journey.num_tokens - 1) // block_size
        known = len(journey.short_hashes)
        if known < usable:
            journey.short_hashes += short_hashes(journey.names_of(usable, block_size)[known:])
        matched = self.pictures.index.matched_blocks(journey.short_hashes)
        return PlacementInput(
            request=PlacementRequest(
                num_tokens=journey.num_tokens,
                max_new_tokens=journey.request.max_new_tokens - journey.generated,
                blame=journey.attempts.blame,
                reserved_decode=reserved,
                cached_tokens={name: blocks * block_size for name, blocks in matched.items()},
            ),
            prefill=[view for view in views if view.role == "prefill"],
            decode=[view for view in views if view.role == "decode"],
            now=now,
            others=self._others,
        )

    def place(self, asked: PlacementInput) -> Placement:
        """Errors: NoCandidates."""
        return self._strategy(asked)

    def place_prefill(self, asked: PlacementInput) -> Placement | None:
        """For a request that has blocks; None where no prefill worker is left that has not failed
        it."""
        try:
            placement = self._strategy(asked)
        except NoCandidates:
            return None
        standing = asked.request.blame.standing(placement.prefill, placement.decode)
        if placement.prefill is None or standing >= Standing.FAILED:
            return None
        return placement

    def exceeded(self, asked: PlacementInput) -> str | None:
        """Why no worker could ever take it."""
        policy = self._cluster.policies.placement
        return exceeded_capacity(
            asked.request, asked.prefill, asked.decode, local_prefill=policy.local_prefill
        )

    def preview(self, journey: Journey) -> tuple[float, float] | None:
        """Seconds to the first token, as predicted now, and their objective."""
        try:
            chosen = self._forecast(self.ask(journey)).chosen
        except NoCandidates:
            return None
        if chosen is None:
            return None
        length = length_class(chosen.residual_tokens)
        return chosen.ttft_seconds, self._cluster.policies.objectives.ttft_seconds(length)

    def prefill_worker(self, name: WorkerId | None) -> SimulatedPrefillWorker | None:
        worker = self.pictures[name].worker if name is not None else None
        return worker if isinstance(worker, SimulatedPrefillWorker) else None

    def decode_worker(self, name: WorkerId | None) -> SimulatedDecodeWorker | None:
        worker = self.pictures[name].worker if name is not None else None
        return worker if isinstance(worker, SimulatedDecodeWorker) else None
