"""What a router tells of itself and its workers: for people and their tools, not for decisions."""

import time

from lengthwise_router.metrics import RouterMetrics
from lengthwise_router.workers.fleet import Fleet
from lengthwise_router.workers.worker import Worker
from lengthwise_wire.v1 import inference_pb2

MAX_WORKERS = 512
"""In one answer: 300 KiB at most."""


class StatusReport:
    """Made once, and asked at any time."""

    def __init__(self, *, model: str, fleet: Fleet, metrics: RouterMetrics) -> None:
        self._model = model
        self._fleet = fleet
        self._metrics = metrics
        self._started_at = time.monotonic()

    def report(
        self, *, draining: bool, in_flight: int, waiting: int
    ) -> inference_pb2.GetStatusResponse:
        workers = sorted(self._fleet.workers, key=lambda worker: worker.address)
        response = inference_pb2.GetStatusResponse(
            router_id=self._fleet.router_id,
            model=self._model,
            uptime_seconds=time.monotonic() - self._started_at,
            draining=draining,
            requests_in_flight=in_flight,
            requests_waiting=waiting,
            short_tokens=self._fleet.short_tokens,
            workers=map(_state, workers[:MAX_WORKERS]),
            num_workers=len(workers),
        )
        for measure, length_class, bounds, counts in self._metrics.latencies():
            response.latencies.add(
                measure=measure, length_class=length_class, upper_bounds=bounds, counts=counts
            )
        return response


def _state(worker: Worker) -> inference_pb2.WorkerState:
    state = inference_pb2.WorkerState(address=worker.address, condition=worker.condition)
    if worker.status is not None:
        state.status.CopyFrom(worker.status)
        state.status.ClearField("block_events")
    return state
