"""The deployments that are compared, each on all cores of this machine, one at a time.

Ours have two workers with one core each. `default` is what `lengthwise up --prefill 1 --decode 1`
starts; `disaggregated` the same without local prefill; `together` two decode workers that compute
prompts too, so that it differs from them in nothing but disaggregation. `vllm` is `vllm serve` as
it is installed, told to compute on all cores.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from goodput.model import CONTEXT_LENGTH
from lengthwise_local import LocalCluster

NAME: Final = "served"
KV_MEMORY_BYTES: Final = 1 << 30
"""Of each of our workers; vLLM gets as much as two."""

START_SECONDS: Final = 900.0
"""The first time vLLM compiles, for minutes."""

STOP_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """A deployment of ours by its workers and what it changes of the defaults."""

    name: str
    prefill: int = 1
    decode: int = 1
    router: Mapping[str, object] = field(default_factory=dict)


DEFAULT: Final = Ours(name="default")
FIXED: Final = (
    Ours(name="disaggregated", router={"local_prefill": False}),
    Ours(name="together", prefill=0, decode=2),
)
VLLM: Final = "vllm"


@contextmanager
def serve_ours(
    arm: Ours, model: Path, objectives: Mapping[str, float], dtype: str
) -> Iterator[str]:
    """Yields its base URL. `objectives`: what an operator would set them to."""
    worker = {"dtype": dtype, "kv_memory_bytes": KV_MEMORY_BYTES, "objectives": objectives}
    cluster = LocalCluster(
        models={NAME: model},
        prefill=arm.prefill,
        decode=arm.decode,
        device="cpu",
        http_port=0,
        configs={
            "prefill": worker,
            "decode": worker,
            "router": {"objectives": objectives, **arm.router},
        },
        start_seconds=START_SECONDS,
    )
    with cluster:
        yield f"http://{cluster.routers[0].http_address}"


@contextmanager
def serve_vllm(venv: Path, model: Path, log: Path, dtype: str) -> Iterator[str]:
    """Yields its base URL. Errors: RuntimeError with the end of its log when it does not start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cores = sorted(os.sched_getaffinity(0))
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "VLLM_CPU_KVCACHE_SPACE": str(2 * KV_MEMORY_BYTES >> 30),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),  # by itself it spares one
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [
        str(venv.absolute() / "bin/vllm"), "serve", str(model), "--served-model-name", NAME,
        "--host", "127.0.0.1", "--port", str(port), "--dtype", dtype,
        "--max-model-len", str(CONTEXT_LENGTH),
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=log.parent,
        )
        try:
            base_url = f"http://127.0.0.1:{port}"
            _await_health(process, base_url, log)
            yield base_url
        finally:
            _end(process)


def _await_health(process: "subprocess.Popen[bytes]", base_url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{base_url}/health", timeout=2.0).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(
        f"vllm serve did not start (exit code {process.poll()}); its log ends:\n{tail}"
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """The server and what it started."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_SECONDS)
