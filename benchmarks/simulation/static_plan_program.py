"""What the Python runs that has aiconfigurator: `aiconfigurator cli default` for each line of input
({"model", "system", "gpus", "prompt", "output", "ttft_ms", "tpot_ms"}). Imports nothing of ours."""

import json
import sys
from collections.abc import Mapping
from typing import Any

BACKEND = "vllm"


def _default(asked: Mapping[str, Any]) -> dict[str, Any]:
    from aiconfigurator.cli.api import cli_default
    from aiconfigurator_core.sdk.models.helpers import _get_model_info

    found = cli_default(
        asked["model"], asked["gpus"], asked["system"],
        backend=BACKEND, isl=asked["prompt"], osl=asked["output"],
        ttft=asked["ttft_ms"], tpot=asked["tpot_ms"], strict_sla=True,
    )  # fmt: skip
    kinds = {}
    for kind, table in found.best_configs.items():
        if len(table):
            best = table.iloc[0]
            kinds[kind] = {
                "rate_per_gpu": float(best["seq/s/gpu"]),
                "workers": _workers(best, kind, asked["gpus"] // int(best["num_total_gpus"])),
            }
    return {"config": _get_model_info(asked["model"])["raw_config"], "best": kinds}


def _workers(best: Any, kind: str, replicas: int) -> list[int]:
    """Prefill workers, GPUs of each, decode workers, GPUs of each."""
    if kind == "agg":
        return [0, 1, replicas, int(best["tp"] * best["pp"])]
    prefill, decode = (
        [replicas * int(best[f"{part}workers"]), int(best[f"{part}tp"] * best[f"{part}pp"])]
        for part in ("(p)", "(d)")
    )
    return [*prefill, *decode]


if __name__ == "__main__":
    print(json.dumps([_default(json.loads(line)) for line in sys.stdin]))
