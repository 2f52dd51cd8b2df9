"""What a router tells of itself and its workers: for people and their tools, not for decisions."""

import time

from lengthwise_router.serving.models.served_models import ServedModels
from lengthwise_router.workers.fleet import Fleet
from lengthwise_router.workers.worker import Worker
from lengthwise_wire.v1 import inference_pb2

MAX_WORKERS = 512
"""In one answer: 300 KiB at most."""


class StatusReport:
    """Made once, and asked at any time."""

    def __init__(self, *, models: ServedModels, fleet: Fleet) -> None:
        self._models = models
        self._fleet = fleet
        self._started_at = time.monotonic()

    def report(self, *, draining: bool) -> inference_pb2.GetStatusResponse:
        workers = sorted(self._fleet.workers, key=lambda worker: worker.address)
        models = [model.status() for model in self._models]
        return inference_pb2.GetStatusResponse(
            router_id=self._fleet.router_id,
            uptime_seconds=time.monotonic() - self._started_at,
            draining=draining,
            requests_in_flight=sum(model.requests_in_flight for model in models),
            requests_waiting=sum(model.requests_waiting for model in models),
            workers=map(_state, workers[:MAX_WORKERS]),
            num_workers=len(workers),
            models=models,
        )


def _state(worker: Worker) -> inference_pb2.WorkerState:
    state = inference_pb2.WorkerState(address=worker.address, condition=worker.condition)
    if worker.status is not None:
        state.status.CopyFrom(worker.status)
        state.status.ClearField("block_events")
    return state
