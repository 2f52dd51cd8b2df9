"""What vLLM takes for the same steps on an H200, by the operator tables of aiconfigurator.

Where that is not installed there is nothing to compare with. It wants other versions of packages
than a worker, so that it may lie in an environment of its own: `AICONFIGURATOR=PYTHON`.

    python -m venv aic && aic/bin/pip install aiconfigurator==0.12.0
    AICONFIGURATOR=aic/bin/python make gpu-check

This file is also the program that the other Python runs, so it imports nothing else of ours. It
reads lines of a model's config.json, "static_ctx" or "static_gen", requests and tokens of each, and
answers with milliseconds.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

Row = Mapping[str, Any]

NAME: Final = "aiconfigurator, vllm"
SYSTEM: Final = "h200_sxm"
SECONDS: Final = 60.0
PREFILL: Final = re.compile(r"(?P<model>\S+), (?P<tokens>\d+) tokens")
DECODE: Final = re.compile(r"(?P<model>\S+), (?P<requests>\d+) rows after (?P<tokens>\d+)")

Question = tuple[Mapping[str, Any], str, int, int]


def is_there() -> bool:
    """Whether some Python was named that has it, or this one does."""
    return "AICONFIGURATOR" in os.environ or find_spec("aiconfigurator") is not None


def peer_rows(rows: Sequence[Row], configs: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """A row of the peer beside each of ours that it has an answer for; `configs` are the models'
    config.json by name."""
    asked = [(row, question) for row in rows if (question := _question(row, configs)) is not None]
    answers = _ask([question for _, question in asked]) if asked and is_there() else []
    return [
        {
            **row,
            "implementation": NAME,
            "repeats": 0,
            "p20_ms": ms,
            "p50_ms": ms,
            "p80_ms": ms,
            "tokens_per_second": round(row["tokens_per_second"] * row["p50_ms"] / ms, 1),
            "gigabytes_per_second": round(row["gigabytes_per_second"] * row["p50_ms"] / ms, 1),
            "teraflops_per_second": round(row["teraflops_per_second"] * row["p50_ms"] / ms, 2),
            "share_of_ceiling": round(row["ceiling_ms"] / ms, 4),
        }
        for (row, _), ms in zip(asked, answers, strict=False)
        if ms is not None
    ]


def _question(row: Row, configs: Mapping[str, Mapping[str, Any]]) -> Question | None:
    if row["implementation"] != "lengthwise":
        return None
    if row["op"] == "prefill" and (found := PREFILL.fullmatch(row["shape"])):
        return configs[found["model"]], "static_ctx", 1, int(found["tokens"])
    if row["op"] == "decode" and (found := DECODE.fullmatch(row["shape"])):
        return configs[found["model"]], "static_gen", int(found["requests"]), int(found["tokens"])
    return None


def _ask(questions: Sequence[Question]) -> list[float | None]:
    """Empty where there is no aiconfigurator, or it does not answer."""
    python = os.environ.get("AICONFIGURATOR", sys.executable)
    asked = "".join(f"{json.dumps(question)}\n" for question in questions)
    try:
        done = subprocess.run(
            [python, __file__], input=asked, capture_output=True, text=True, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"no times of a peer: {error}", file=sys.stderr)
        return []
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["aiconfigurator said nothing"])[-1]
        print(f"no times of a peer: {said}", file=sys.stderr)
        return []
    answers: list[float | None] = json.loads(done.stdout.splitlines()[-1])
    return answers


def _answers(lines: Sequence[str]) -> Iterator[float | None]:
    """In the other Python."""
    from aiconfigurator.sdk import config, models, perf_database
    from aiconfigurator.sdk.backends.factory import get_backend
    from aiconfigurator.sdk.inference_session import InferenceSession

    version = perf_database.get_latest_database_version(SYSTEM, "vllm")
    database = perf_database.get_database(SYSTEM, "vllm", version)
    for line in lines:
        shape, mode, requests, tokens = json.loads(line)
        architecture = f"{shape['model_type'].capitalize()}ForCausalLM"
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "config.json")
                file.write_text(json.dumps({**shape, "architectures": [architecture]}))
                model = models.get_model(folder, config.ModelConfig(), "vllm")
            session = InferenceSession(model, database, get_backend("vllm"))
            asked = config.RuntimeConfig(batch_size=requests, beam_width=1, isl=tokens, osl=2)
            yield round(float(session.run_static_latency_only(asked, mode)), 4)
        except Exception as error:
            print(f"{line.strip()}: {error}", file=sys.stderr)
            yield None


if __name__ == "__main__":
    print(json.dumps(list(_answers(sys.stdin.readlines()))))
