"""Front doors to measure: ours over gRPC and HTTP, Dynamo's frontend, SGLang's router; each with
workers that compute nothing."""

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.error import URLError

import psutil
from tokenizers import Tokenizer

import lengthwise_engine
from front_door.router_cpu import PROMPT
from lengthwise import Client
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster
from lengthwise_wire.errors import LengthwiseError

START_SECONDS = 120.0

HTTP_PORT, PREFILL_PORT, DECODE_PORT, BOOTSTRAP_PORT = 18_100, 18_101, 18_102, 18_103


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """One that runs."""

    name: str
    pid: int
    """Of the process that is measured, its children included."""
    address: str
    """host:port."""
    model: str = ""
    prompt: str = PROMPT
    is_grpc: bool = False
    options: Mapping[str, object] = field(default_factory=dict)
    """Further fields of its requests."""


@contextmanager
def ours(settings: Sequence[str] = ()) -> Iterator[list[Front]]:
    """Both faces of one router."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_toy_checkpoint(Path(folder) / "toy")
        with LocalCluster(model=model, device="cpu", http_port=0, settings=settings) as cluster:
            router = cluster.routers[0]
            yield [
                Front(name="gRPC", pid=router.pid, address=cluster.endpoint, is_grpc=True),
                Front(name="HTTP", pid=router.pid, address=router.http_address, model="toy"),
            ]


@contextmanager
def before(python: str) -> Iterator[list[Front]]:
    """gRPC of another checkout; `python`: of its environment."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = write_toy_checkpoint(folder / "toy")
        port = HTTP_PORT
        up = [str(Path(python).parent / "lengthwise"), "up", "--model", str(model), "--decode", "1"]
        cluster = stack.enter_context(_process([*up, "--port", str(port), "--device", "cpu"], {}))
        name = f"gRPC {_commit(python)}"

        def routers() -> list[int]:
            children = psutil.Process(cluster).children(recursive=True)
            return [each.pid for each in children if "lengthwise_router" in each.cmdline()]

        _await(lambda: bool(routers()) and _answers(port))
        yield [Front(name=name, pid=routers()[0], address=f"127.0.0.1:{port}", is_grpc=True)]


@contextmanager
def dynamo(python: str) -> Iterator[list[Front]]:
    """`python`: of an environment with `ai-dynamo==1.4.2`. One prefill and one decode mocker."""
    model = str(Path(lengthwise_engine.__path__[0]) / "demo_model")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        env = {
            "DYN_FILE_KV": folder, "DYN_SELF_HOST_METADATA": "0", "HF_HUB_OFFLINE": "1",
            "DYN_TCP_RPC_HOST": "127.0.0.1",
        }  # fmt: skip
        plane = ["--discovery-backend", "file", "--request-plane", "tcp", "--event-plane", "zmq"]

        def start(module: str, *options: str) -> int:
            return stack.enter_context(_process([python, "-m", module, *plane, *options], env))

        mocker = ("dynamo.mocker", "--model-path", model, "--disaggregation-mode")
        start(*mocker, "prefill", "--bootstrap-ports", str(BOOTSTRAP_PORT))
        start(*mocker, "decode")
        _await(lambda: len([*Path(folder).glob("v1/mdc/*")]) >= 2)
        pid = start(
            "dynamo.frontend", "--http-port", str(HTTP_PORT), "--router-mode", "round-robin"
        )
        address = f"127.0.0.1:{HTTP_PORT}"
        _await(lambda: b'"id"' in _get(f"http://{address}/v1/models"))
        yield [
            Front(
                name="Dynamo 1.4.2", pid=pid, address=address, model=model,
                prompt=_prompt_of(model, len(PROMPT)), options={"ignore_eos": True},
            )
        ]  # fmt: skip


@contextmanager
def sglang(python: str) -> Iterator[list[Front]]:
    """`python`: of an environment with `sglang-router==0.3.2`. It hands texts on, so its workers
    are two of `sglang_worker`."""
    with ExitStack() as stack:
        for port in (PREFILL_PORT, DECODE_PORT):
            command = [sys.executable, "-m", "front_door.sglang_worker", str(port)]
            stack.enter_context(_process(command, {}))
            _await(partial(_get, f"http://127.0.0.1:{port}/health"))
        command = [
            python, "-m", "sglang_router.launch_router", "--host", "127.0.0.1",
            "--port", str(HTTP_PORT), "--pd-disaggregation",
            "--prefill", f"http://127.0.0.1:{PREFILL_PORT}", str(BOOTSTRAP_PORT),
            "--decode", f"http://127.0.0.1:{DECODE_PORT}",
        ]  # fmt: skip
        pid = stack.enter_context(_process(command, {}))
        address = f"127.0.0.1:{HTTP_PORT}"
        _await(partial(_get, f"http://{address}/readiness"))
        yield [Front(name="sglang-router 0.3.2", pid=pid, address=address, model="toy")]


@contextmanager
def _process(command: Sequence[str], env: Mapping[str, str]) -> Iterator[int]:
    output = subprocess.DEVNULL
    process = subprocess.Popen(
        command, env={**os.environ, **env}, stdout=output, stderr=output, start_new_session=True
    )
    try:
        yield process.pid
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


def _get(url: str) -> bytes:
    """What it answers; nothing while it does not."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read() or b"ok"
    except (URLError, OSError):
        return b""


def _answers(port: int) -> bool:
    with suppress(LengthwiseError), Client(f"127.0.0.1:{port}") as client:
        client.generate("a", max_tokens=2, timeout=5)
        return True
    return False


def _commit(python: str) -> str:
    """Of the checkout that it belongs to."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    folder = Path(python).parent
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout.strip()


def _await(is_ready: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    while not is_ready():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"not ready after {START_SECONDS:g} s")
        time.sleep(0.3)


def _prompt_of(model: str, num_tokens: int) -> str:
    """A text of so many tokens."""
    tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
    words = PROMPT.split() * num_tokens
    for count in range(1, len(words)):
        text = " ".join(words[:count])
        if len(tokenizer.encode(text).ids) >= num_tokens:
            return text
    raise AssertionError("a word is a token at least")
