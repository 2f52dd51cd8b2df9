"""How far cost profiles are apart: ten steps, calculated, measured by operator, and published.

    make reproduce-profiles AICONFIGURATOR=aic/bin/python ARGUMENTS="--kept FOLDER"

Rows are ratios; the tables themselves are others'. Splitwise's comes from --splitwise FILE, its
splitwise_perf_model.csv, or is left out. Rows of benchmarks/data/own_fits.csv tell what a worker
with these costs would fit, over what they are.
Without an aiconfigurator, --only-published makes the others' rows.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from rows import append_rows

from lengthwise_policy.cost.fit import CostFit
from lengthwise_simulator.cost.gpus import find_gpu
from lengthwise_simulator.cost.profile import Chunk, CostProfile, LinearCosts, measured_by_workers
from lengthwise_simulator.cost.published import OPT_13B_A100, SplitwiseCosts
from lengthwise_simulator.cost.roofline import RooflineCosts
from lengthwise_simulator.cost.silicon import RANKS
from simulation.disciplines import QWEN_32B
from simulation.plans import FIXED, model_of, settings
from simulation.static_plan import static_plans

Step = tuple[list[Chunk], int, int]
Pair = tuple[str, str, CostProfile, CostProfile]
"""Of a worker: what it is, who measured it, what is calculated, and what was measured."""

STEPS: Final[Mapping[str, Step]] = {
    "prompt of 128": ([(128, 0)], 0, 0),
    "prompt of 512": ([(512, 0)], 0, 0),
    "prompt of 2048": ([(2048, 0)], 0, 0),
    "prompt of 8192": ([(8192, 0)], 0, 0),
    "512 after 7680": ([(512, 7680)], 0, 0),
    "1 decode after 1024": ([], 1, 1024),
    "16 decodes after 1024": ([], 16, 16 * 1024),
    "64 decodes after 1024": ([], 64, 64 * 1024),
    "64 decodes after 4096": ([], 64, 64 * 4096),
    "512 beside 32 decodes after 2048": ([(512, 0)], 32, 32 * 2048),
}


def measured(kept: Path) -> Iterator[Pair]:
    """What is calculated over what aiconfigurator measured, of each model on each GPU."""
    asked = settings(FIXED)
    seen = set()
    for setting, static in zip(asked, static_plans(asked, kept / "plans_steady.json"), strict=True):
        model = model_of(setting, static.config, kept)
        for ranks in set(RANKS) & set(model.fitting_ranks(8)):
            what = f"{setting.model} on {ranks} {setting.gpu}"
            if what not in seen:
                seen.add(what)
                yield what, "aiconfigurator", model.costs(ranks), model.step_costs(ranks)


def published(splitwise: Path | None) -> Iterator[Pair]:
    """What is calculated over what was published."""
    opt = replace(
        QWEN_32B, num_layers=40, hidden_size=5120, num_heads=40, num_kv_heads=40, vocab_size=50_272,
        intermediate_size=2 * 20_480 // 3,  # three matrices here, two of 20,480 there
    )  # fmt: skip
    for ranks, costs in OPT_13B_A100.items():
        roofline = RooflineCosts(opt, find_gpu("A100"), ranks)
        yield f"OPT-13B on {ranks} A100", "DistServe", roofline, costs
    if splitwise is None:
        return
    llama2 = replace(
        QWEN_32B, num_layers=80, hidden_size=8192, num_heads=64, vocab_size=32_000,
        intermediate_size=28_672,
    )  # fmt: skip
    for gpu, hardware in (("A100", "a100-80gb"), ("H100", "h100-80gb")):
        for ranks in (4, 8):
            theirs = SplitwiseCosts(splitwise, "llama2-70b", hardware, ranks)
            roofline = RooflineCosts(llama2, find_gpu(gpu), ranks)
            yield f"Llama-2-70B on {ranks} {gpu}", "Splitwise", roofline, theirs


def fit_row(worker: str, steps_of: str, fit: CostFit, steps: CostProfile) -> dict[str, object]:
    """A worker's own fit over what its steps take."""
    fitted = LinearCosts(fit.model)
    ratios = {
        step: round(fitted.step_seconds(*work) / steps.step_seconds(*work), 3)
        for step, work in STEPS.items()
    }
    return {"worker": worker, "fit_over": steps_of, **ratios}


def rows_of_fits(pairs: Sequence[Pair]) -> Iterator[dict[str, object]]:
    for what, source, calculated, theirs in pairs:
        for steps_of, steps in (("calculated", calculated), (source, theirs)):
            fit = measured_by_workers(
                steps, longest_prompt=8192, most_requests=64, chunk_tokens=8192
            )
            yield fit_row(what, steps_of, fit, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only-published", action="store_true")
    parser.add_argument("--kept", type=Path, help="a folder for aiconfigurator's tables")
    parser.add_argument("--splitwise", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pairs = [] if asked.only_published else [*measured(asked.kept or Path(folder))]
        pairs += published(asked.splitwise)
    rows = []
    for what, source, calculated, theirs in pairs:
        ratios = {
            step: round(calculated.step_seconds(*work) / theirs.step_seconds(*work), 3)
            for step, work in STEPS.items()
        }
        rows.append({"worker": what, "calculated_over": source, **ratios})
        print(*rows[-1].values(), sep=" | ", flush=True)
    append_rows("profiles", rows)
    append_rows("own_fits", list(rows_of_fits(pairs)))


if __name__ == "__main__":
    main()
