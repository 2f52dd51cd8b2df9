"""Our plans beside those of aiconfigurator, with its own tables of measured operators as costs.

*Steady*: requests of one length at regular intervals, which is what it plans for. Its best shapes
of both kinds and ours are simulated, with its corrections of separate workers' steps and without.
*Real*: it is asked for the mean lengths of Azure's conversations; its shape is simulated at the
rate it promises with the trace's lengths and bursts, and `plan` is asked instead.

    make reproduce-plans AICONFIGURATOR=aic/bin/python ARGUMENTS="--kept FOLDER"

Its numbers are its own: the rows of benchmarks/data/plans_*.csv have shares of them. `--kept` holds
its tables and answers, which take it some minutes.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any, Final

from rows import append_rows
from traces import AZURE_CONVERSATIONS

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.families import read_decoder_spec
from lengthwise_simulator.cost.gpus import find_gpu
from lengthwise_simulator.cost.silicon import silicon_tables
from lengthwise_simulator.search.shape import ModelOnGpus
from lengthwise_simulator.workload.traces import read_trace
from simulation.plans_real import real_row
from simulation.plans_steady import steady_row
from simulation.static_plan import PlanSetting, StaticPlan, static_plans

MODELS: Final = ("Qwen/Qwen3-32B", "meta-llama/Meta-Llama-3.1-70B")
GPUS: Final = ("H200", "H100")
OBJECTIVES: Final = ((1.0, 0.02), (2.0, 0.05))
FIXED: Final = (4000, 500)
UNIT: Final = 8


def settings(lengths: tuple[int, int]) -> list[PlanSetting]:
    return [
        PlanSetting(
            model=model, gpu=gpu, gpus=UNIT, prompt=lengths[0], output=lengths[1],
            ttft_seconds=ttft, tpot_seconds=tpot,
        )
        for model, gpu, (ttft, tpot) in product(MODELS, GPUS, OBJECTIVES)
    ]  # fmt: skip


def mean_lengths() -> tuple[int, int]:
    rows = read_trace(AZURE_CONVERSATIONS)
    return (
        round(mean(row.prompt_tokens for row in rows)),
        round(mean(row.output_tokens for row in rows)),
    )


def model_of(setting: PlanSetting, config: Mapping[str, Any], kept: Path) -> ModelOnGpus:
    tables = silicon_tables(
        kept / f"{setting.model.replace('/', '-')}-{setting.gpu}.json", config, setting.gpu
    )
    return ModelOnGpus(
        spec=read_decoder_spec(ConfigJson(Path("config.json"), config)),
        gpu=find_gpu(setting.gpu),
        gpu_name=setting.gpu,
        measured=tables.get,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRun:
    """A row of `table`, made in any process."""

    table: str
    setting: PlanSetting
    static: StaticPlan
    kept: Path

    def __call__(self) -> dict[str, object]:
        model = model_of(self.setting, self.static.config, self.kept)
        row = {"plans_steady": steady_row, "plans_real": real_row}[self.table]
        return row(self.setting, self.static, model)


def runs(kept: Path) -> Iterator[SettingRun]:
    for table, lengths in (("plans_steady", FIXED), ("plans_real", mean_lengths())):
        asked = settings(lengths)
        for setting, static in zip(asked, static_plans(asked, kept / f"{table}.json"), strict=True):
            model_of(setting, static.config, kept)  # its tables are there before processes ask
            yield SettingRun(table=table, setting=setting, static=static, kept=kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept", type=Path, help="a folder for its tables and answers")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", choices=("plans_steady", "plans_real"))
    parser.add_argument("--setting", default="", help="those alone that have this in their name")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chosen = [
            run
            for run in runs(asked.kept or Path(folder))
            if asked.only in (None, run.table) and asked.setting in str(run.setting)
        ]
        with ProcessPoolExecutor(asked.processes, mp_context=get_context("spawn")) as pool:
            for run, row in zip(chosen, pool.map(SettingRun.__call__, chosen), strict=True):
                print(run.table, json.dumps(row), flush=True)
                append_rows(run.table, [row])


if __name__ == "__main__":
    main()
