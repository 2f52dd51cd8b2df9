"""LAPS' comparison: prefill disciplines on a prefill worker, Qwen2.5-32B on an H200, conversations
of ShareGPT's lengths, with a first token within 0.4 s. LAPS gives violations about a tenth below
those of its router, and a median a quarter lower at 128 callers, both measured live. As in its
published tables one token is generated."""

from collections.abc import Iterator
from random import Random
from typing import Final, get_args

from traces import SHAREGPT_LENGTHS

from lengthwise_checkpoint.rope import RopeSpec
from lengthwise_checkpoint.spec import DecoderSpec
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.policy import PlacementPolicy
from lengthwise_policy.prefill.policy import DisciplineName, PrefillPolicy
from lengthwise_simulator.cluster.simulation import Simulation
from lengthwise_simulator.cluster.spec import ClusterPolicies
from lengthwise_simulator.cost.gpus import find_gpu
from lengthwise_simulator.results import RunSummary
from lengthwise_simulator.search.shape import DeploymentShape, ModelOnGpus
from lengthwise_simulator.workload.arrivals import poisson
from lengthwise_simulator.workload.requests import Sessions, conversations
from lengthwise_simulator.workload.traces import read_trace

QWEN_32B: Final = DecoderSpec(
    model_type="qwen2",
    context_length=32_768,
    vocab_size=152_064,
    num_layers=64,
    num_kv_heads=8,
    head_dim=128,
    dtype="bfloat16",
    hidden_size=5120,
    intermediate_size=27_648,
    num_heads=40,
    norm_eps=1e-6,
    rope=RopeSpec(theta=1e6, scaling=None),
    windows=(None,) * 64,
    qkv_bias=True,
    output_bias=False,
    mlp_bias=False,
    qk_norm=False,
    tied_embeddings=False,
)
SHAPE: Final = DeploymentShape(prefill=1, prefill_ranks=1, decode=1, decode_ranks=1)
OBJECTIVES: Final = Objectives(ttft_short_seconds=0.4, ttft_long_seconds=0.4, tpot_seconds=0.1)
SESSIONS: Final = Sessions(mean_turns=4.0, think_seconds=2.0)
RATES: Final = (12.0, 20.0)
CONVERSATIONS: Final = 800
SEEDS: Final = range(1)


def rows_of_disciplines() -> Iterator[dict[str, object]]:
    lengths = [row._replace(output_tokens=1) for row in read_trace(SHAREGPT_LENGTHS)]
    model = ModelOnGpus(spec=QWEN_32B, gpu=find_gpu("H200"), gpu_name="H200")
    for rate in RATES:
        for discipline in get_args(DisciplineName):
            policies = ClusterPolicies(
                placement=PlacementPolicy(objectives=OBJECTIVES, local_prefill=False),
                prefill=PrefillPolicy(discipline=discipline),
            )
            for seed in SEEDS:
                asked = model.cluster(SHAPE, policies, seed)
                times = poisson(rate / SESSIONS.mean_turns, Random(seed))
                turns = conversations(SESSIONS, lengths, times, CONVERSATIONS, Random(seed))
                summary = RunSummary.of(Simulation(asked, turns).run())
                yield from _rows(summary, rate, discipline, seed)


def _rows(
    summary: RunSummary, rate: float, discipline: str, seed: int
) -> Iterator[dict[str, object]]:
    busy = f"{rate:g}/s, seed {seed}, prefill worker {summary.prefill_busy:.0%} busy"
    for each in summary.classes:
        measures = {
            "TTFT p50, ms": round(each.ttft_seconds[0] * 1e3, 1),
            "TTFT p99, ms": round(each.ttft_seconds[2] * 1e3, 1),
            "in time": round(each.attainment, 4),
        }
        for measure, value in measures.items():
            yield {
                "setting": f"LAPS, Qwen2.5-32B, ShareGPT conversations, 0.4 s, {busy}",
                "arm": discipline,
                "shape": each.name,
                "measure": measure,
                "published": "",
                "simulated": value,
            }
