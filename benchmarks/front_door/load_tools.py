"""Load generators that others wrote, unmodified, against what `lengthwise up` runs: HTTP over the
demo model, 4 callers, 128 tokens in and 32 out.

Each is an executable that a variable names, in an environment of its own, and is left out without:

    LENGTHWISE_GUIDELLM         guidellm==0.8.1
    LENGTHWISE_AIPERF           aiperf==0.13.0
    LENGTHWISE_INFERENCE_PERF   inference-perf==0.7.0, which needs Python 3.12
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml
from cpu import CpuWatch
from rows import append_rows

import lengthwise_engine
from lengthwise_local import LocalCluster

MODEL = "demo_model"
FOLDER = str(Path(lengthwise_engine.__path__[0]) / MODEL)
CALLERS, TOKENS_IN, TOKENS_OUT = 4, 128, 32
TOOL_SECONDS = 300

Row = dict[str, object]
Tool = Callable[[str, str, Path, int], Row]


def guidellm(executable: str, url: str, folder: Path, requests: int) -> Row:
    report = folder / "guidellm.json"
    _run(
        executable, "run",
        "--backend", f"kind=openai_http,target={url},model={MODEL}",
        "--profile", f"kind=concurrent,streams={CALLERS}",
        "--constraint", f"kind=max_requests,count={requests}",
        "--tokenizer", f"kind=hf_auto,model={FOLDER}",
        "--data", f"kind=synthetic_text,prompt_tokens={TOKENS_IN},output_tokens={TOKENS_OUT}",
        "--disable-console-interactive", "--output", f"kind=json,path={report}",
        offline=True,
    )  # fmt: skip
    metrics = json.loads(report.read_text())["benchmarks"][0]["metrics"]
    totals = metrics["request_totals"]

    def middle(name: str) -> float:
        return float(metrics[name]["successful"]["median"])

    return {
        "endpoint": "chat/completions",
        "succeeded": totals["successful"],
        "failed": totals["errored"] + totals["incomplete"],
        "first_token_p50_ms": round(middle("time_to_first_token_ms"), 1),
        "inter_token_p50_ms": round(middle("inter_token_latency_ms"), 1),
        "latency_p50_ms": round(middle("request_latency") * 1e3, 1),
    }


def aiperf(executable: str, url: str, folder: Path, requests: int) -> Row:
    _run(
        executable, "profile", "-m", MODEL, "--endpoint-type", "chat", "--streaming", "-u", url,
        "--tokenizer", FOLDER, "--concurrency", str(CALLERS), "--request-count", str(requests),
        "--isl", str(TOKENS_IN), "--osl", str(TOKENS_OUT), "--extra-inputs", "ignore_eos:true",
        "--use-server-token-count", "--ui", "none", "--output-artifact-dir", str(folder),
        offline=False,
    )  # fmt: skip
    found = json.loads((folder / "profile_export_aiperf.json").read_text())
    succeeded = int(found["request_count"]["avg"])
    return {
        "endpoint": "chat/completions",
        "succeeded": succeeded,
        "failed": requests - succeeded,
        "first_token_p50_ms": round(found["time_to_first_token"]["p50"], 1),
        "inter_token_p50_ms": round(found["inter_token_latency"]["p50"], 1),
        "latency_p50_ms": round(found["request_latency"]["p50"], 1),
    }


def inference_perf(executable: str, url: str, folder: Path, requests: int) -> Row:
    def always(tokens: int) -> dict[str, int]:
        return {"min": tokens, "max": tokens, "mean": tokens, "std_dev": 0, "total_count": requests}

    stage = {"num_requests": requests, "concurrency_level": CALLERS}
    config = {
        "api": {"type": "completion", "streaming": True},
        "data": {
            "type": "random",
            "input_distribution": always(TOKENS_IN),
            "output_distribution": always(TOKENS_OUT),
        },
        "load": {"type": "concurrent", "stages": [stage], "num_workers": 1},
        "server": {"type": "vllm", "model_name": MODEL, "base_url": url, "ignore_eos": True},
        "tokenizer": {"pretrained_model_name_or_path": FOLDER},
        "storage": {"local_storage": {"path": str(folder / "out")}},
    }
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(config))
    _run(executable, "-c", str(path), offline=True)
    found = json.loads((folder / "out" / "summary_lifecycle_metrics.json").read_text())
    latency = found["successes"]["latency"]
    return {
        "endpoint": "completions",
        "succeeded": found["successes"]["count"],
        "failed": found["failures"]["count"],
        "first_token_p50_ms": round(latency["time_to_first_token"]["median"] * 1e3, 1),
        "inter_token_p50_ms": round(latency["inter_token_latency"]["median"] * 1e3, 1),
        "latency_p50_ms": round(latency["request_latency"]["median"] * 1e3, 1),
    }


TOOLS: dict[str, tuple[str, Tool]] = {
    "LENGTHWISE_GUIDELLM": ("guidellm", guidellm),
    "LENGTHWISE_AIPERF": ("aiperf", aiperf),
    "LENGTHWISE_INFERENCE_PERF": ("inference-perf", inference_perf),
}


def _run(*command: str, offline: bool) -> None:
    """`offline`: tokenizers are never looked up elsewhere; aiperf takes no folder then."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            command, env=env, cwd=folder, check=True, timeout=TOOL_SECONDS,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


def _version(executable: str, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    command = [str(Path(executable).parent / "python"), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--dry", action="store_true", help="print rows without recording them")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with LocalCluster(device="cpu", http_port=0, decode=2) as cluster:
        url = f"http://{cluster.routers[0].http_address}"
        for variable, (package, tool) in TOOLS.items():
            executable = os.environ.get(variable)
            if executable is None:
                print(f"{variable} is not set: left out")
                continue
            with tempfile.TemporaryDirectory() as folder:
                watch = CpuWatch()
                found = tool(executable, url, Path(folder), arguments.requests)
            rows.append(
                {
                    "tool": package,
                    "version": _version(executable, package),
                    "callers": CALLERS,
                    "tokens_in": TOKENS_IN,
                    "tokens_out": TOKENS_OUT,
                    **found,
                    "foreign_cores": round(watch.use().foreign, 2),
                }
            )
            print(rows[-1], flush=True)
    if rows and not arguments.dry:
        append_rows("load_tools", rows)


if __name__ == "__main__":
    main()
