"""What workers of both roles report to routers."""

from lengthwise_policy.types import Role
from lengthwise_wire.capabilities import CAPABILITIES
from lengthwise_wire.convert import ROLES_ON_WIRE, cost_to_wire
from lengthwise_wire.v1 import worker_pb2
from lengthwise_worker.config import WorkerConfig
from lengthwise_worker.engine import Engine
from lengthwise_worker.step_loop import StepLoop


def worker_status(
    worker_id: str, role: Role, config: WorkerConfig, engine: Engine, loop: StepLoop
) -> worker_pb2.WorkerStatus:
    """A new message; the role adds what it alone has."""
    model, snapshot = engine.model, loop.snapshot
    layout, cost = model.shards.layout, snapshot.cost
    return worker_pb2.WorkerStatus(
        worker_id=worker_id,
        role=ROLES_ON_WIRE[role],
        model=config.model_name,
        model_fingerprint=model.fingerprint,
        layout_fingerprint=engine.layout_fingerprint,
        context_length=model.spec.context_length,
        vocab_size=model.spec.vocab_size,
        block_size=layout.block_size,
        kv_bytes_per_token=layout.num_layers * layout.block_bytes // layout.block_size,
        blocks_total=model.shards.num_blocks,
        blocks_free=snapshot.blocks_free,
        blocks_cached=snapshot.blocks_cached,
        running_requests=snapshot.running_requests,
        queues=[
            worker_pb2.QueueStatus(length_class=name, requests=requests, tokens=tokens)
            for name, requests, tokens in snapshot.queues
        ],
        step=loop.progress,
        prompt_tokens_total=snapshot.prompt_tokens_total,
        cost=None if cost is None else cost_to_wire(cost, snapshot.cost_samples),
        short_tokens=snapshot.short_tokens,
        capabilities=CAPABILITIES,
    )
