"""Which graphs the default memory holds, and how many steps of a trace they serve, without a GPU.

Graphs are captured as a worker does at its start, over models of the real sizes on tensors without
memory (`steps.launches`): a recorder notes the most bytes that a step's body has allocated at once,
and its pool is as large as the largest of them, as a GPU's would be. Seconds are the host's alone,
with a driver that does nothing. Steps are those of one prefill and one decode worker of the
simulator that serve the first requests of Azure's conversations at their times; a step counts as
replayed if its padded shape was captured. None is captured under them.
"""

import dataclasses
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, cast
from unittest.mock import patch

import torch
from random_models.models import BLOCK, SHAPES, random_model, spec_of
from rows import append_rows
from torch.utils._python_dispatch import TorchDispatchMode
from traces import AZURE_CONVERSATIONS

from lengthwise_decode_worker.config import DecodeWorkerConfig
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.runner.base import SampledToken, SequenceChunk
from lengthwise_engine.runner.graph_recorder import Body, Graph
from lengthwise_engine.runner.graph_shapes import DECODE_ROWS, PROMPT_TOKENS, GraphPlan
from lengthwise_engine.runner.graphs import STEP_KINDS, kind_of
from lengthwise_engine.runner.torch_runner import TorchRunner
from lengthwise_engine.runner.warm_up import capture_steps
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_prefill_worker.config import PrefillWorkerConfig
from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.cluster.spec import ClusterPolicies
from lengthwise_simulator.cost.gpus import find_gpu
from lengthwise_simulator.search.shape import DeploymentShape, ModelOnGpus
from lengthwise_simulator.workload.requests import as_recorded
from lengthwise_simulator.workload.traces import read_trace
from steps.launches import META, pretend

ROLES: Final = {"prefill": PrefillWorkerConfig, "decode": DecodeWorkerConfig}
MODELS: Final = ("Qwen2.5-7B", "Qwen2.5-32B")
REQUESTS: Final = 500
GPU: Final = "H200"


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes that the results of operations have had at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        self._known = weakref.WeakSet[torch.UntypedStorage]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not func.is_view:
            storage = result.untyped_storage()
            if storage not in self._known:
                self._known.add(storage)
                self._take(storage.nbytes())
                weakref.finalize(storage, self._take, -storage.nbytes())
        return result

    def _take(self, num_bytes: int) -> None:
        self._now += num_bytes
        self.most = max(self.most, self._now)


class PoolRecorder:
    """Captures nothing."""

    def __init__(self) -> None:
        self._measured = self._pool = 0

    def measure(self, body: Body) -> int:
        with LiveBytes() as live:
            body()
        self._measured = live.most
        return self._measured

    def capture(self, body: Body) -> Graph:
        body()
        self._pool = max(self._pool, self._measured)
        return _Captured()

    def pool_bytes(self) -> int:
        return self._pool


class _Captured:
    def replay(self) -> None:
        """There is nothing to compute."""


class LaunchingRunner(TorchRunner):
    """Reads no tokens: there are none."""

    def run(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> list[SampledToken | None]:
        self.launch(chunks, on_layer)
        return []


def plan_of(role: str) -> GraphPlan:
    """Of a worker with no settings."""
    default = {field.name: field.default for field in dataclasses.fields(ROLES[role])}
    return GraphPlan(
        memory_bytes=cast(int, default["graph_memory_bytes"]),
        rows=cast("tuple[int, ...] | None", default["graph_rows"]) or DECODE_ROWS,
        prompt_tokens=cast("tuple[int, ...] | None", default["graph_prompt_tokens"])
        or PROMPT_TOKENS,
    )


def captured(name: str, plan: GraphPlan) -> tuple[LaunchingRunner, PoolRecorder]:
    model, recorder = random_model(SHAPES[name], "meta", torch.bfloat16).decoder, PoolRecorder()
    spec = model.spec
    layout = KVLayout.of(spec, block_size=BLOCK, dtype="bfloat16")
    size = (spec.num_layers, 1, 2, BLOCK, spec.num_kv_heads, spec.head_dim)
    cache = KVCache(layout, torch.empty(size, dtype=torch.bfloat16, device=META))
    runner = LaunchingRunner(model, cache, recorder=recorder, graphs=plan)
    runner.capture_graphs()
    return runner, recorder


def steps_of(name: str) -> dict[str, list[list[int]]]:
    """The numbers of tokens of each step's chunks, by role."""
    steps: dict[str, list[list[int]]] = {role: [] for role in ROLES}
    next_batch, next_step = PrefillScheduler.next_batch, DecodeScheduler.next_step

    def batch(scheduler: PrefillScheduler, *arguments: Any) -> Any:
        planned = next_batch(scheduler, *arguments)
        if planned is not None:
            steps["prefill"].append([chunk.num_tokens for chunk in planned.chunks])
        return planned

    def step(scheduler: DecodeScheduler, *arguments: Any) -> Any:
        planned = next_step(scheduler, *arguments)
        if planned is not None and (planned.request_ids or planned.chunks):
            chunks = [chunk.num_tokens for chunk in planned.chunks]
            steps["decode"].append([1] * len(planned.request_ids) + chunks)
        return planned

    model = ModelOnGpus(spec=spec_of(SHAPES[name]), gpu=find_gpu(GPU), gpu_name=GPU)
    shape = DeploymentShape(prefill=1, prefill_ranks=1, decode=1, decode_ranks=1)
    requests = as_recorded(read_trace(AZURE_CONVERSATIONS, REQUESTS))
    simulation = Simulation(model.cluster(shape, ClusterPolicies(), 0), requests)
    with (
        patch.object(PrefillScheduler, "next_batch", batch),
        patch.object(DecodeScheduler, "next_step", step),
    ):
        simulation.run()
    return steps


def rows() -> Iterator[dict[str, object]]:
    for name in MODELS:
        steps = steps_of(name)
        for role in ROLES:
            plan = plan_of(role)
            runner, recorder = captured(name, plan)
            graphs, counts = runner.graphs, runner.counts
            assert graphs is not None
            how = Counter(
                (kind_of(lengths), graphs.padded_shape(lengths) is not None)
                for lengths in steps[role]
            )
            asked = capture_steps(plan, runner.layout, runner._model.spec)
            yield {
                "model": name,
                "role": role,
                "planned": len(list(asked)),
                "captured": counts.graphs,
                "budget_mib": plan.memory_bytes >> 20,
                "all_mib": counts.graph_bytes >> 20,
                "shared_mib": recorder.pool_bytes() >> 20,
                "host_capture_seconds": f"{counts.capture_seconds:.2f}",
                "trace": f"{AZURE_CONVERSATIONS.name.partition('.')[0]}, {REQUESTS} requests",
                "steps": how.total(),
                **{f"{kind}_steps": how[kind, True] + how[kind, False] for kind in STEP_KINDS},
                **{f"{kind}_replayed": how[kind, True] for kind in STEP_KINDS},
            }


@torch.inference_mode()
def main() -> None:
    pretend()
    table = []
    for row in rows():
        print(row, flush=True)
        table.append(row)
    append_rows("graph_trace", table)


if __name__ == "__main__":
    main()
