"""What can be known to be wrong before anything is started, each in one line with its remedy."""

import importlib.util
import os
import socket
from itertools import combinations
from pathlib import Path

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.families import read_config
from lengthwise_checkpoint.gguf.model import is_gguf
from lengthwise_checkpoint.hub import find_checkpoint, is_hub_id
from lengthwise_local.errors import LocalClusterError
from lengthwise_local.process import Role

MODULES: dict[Role, str] = {
    "prefill": "lengthwise_prefill_worker",
    "decode": "lengthwise_decode_worker",
    "router": "lengthwise_router",
}

_REQUIRED = (
    *("grpc_health", "grpc_reflection", "pydantic", "yaml", "prometheus_client"),
    *("tokenizers", "jinja2", "huggingface_hub", "llguidance", "torch", "safetensors", "xxhash"),
    *("starlette", "uvicorn", "httptools"),
)
"""What the extras `router`, `http` and `worker` bring, under the names that are imported."""

MAX_PORT = 65_535

_INSTALL = 'pip install "lengthwise[cli,router,http,worker]"'


def require_counts(*, prefill: int, decode: int, routers: int) -> None:
    """Errors: LocalClusterError."""
    least = {"prefill": (prefill, 0), "decode": (decode, 1), "routers": (routers, 1)}
    for name, (count, fewest) in least.items():
        if count < fewest:
            raise LocalClusterError(f"{name}: got {count}, expected at least {fewest}")


def require_extras() -> None:
    """Errors: LocalClusterError naming what is not installed and how to install it."""
    names = (*MODULES.values(), *_REQUIRED)
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise LocalClusterError(
            f"not installed: {', '.join(missing)}; a local cluster needs {_INSTALL}"
        )


def router_addresses(
    host: str, routers: int, port: int, metrics_port: int, http_port: int | None
) -> list[dict[str, object]]:
    """Where each router listens, as its configuration says it. Errors: as `_free_ports`, and where
    two of them overlap."""
    asked = {"--port": (host, port), "--metrics-port": ("127.0.0.1", metrics_port)}
    if http_port is not None:
        asked["--http-port"] = (host, http_port)
    found = {option: _free_ports(option, *first, routers) for option, first in asked.items()}
    for one, other in combinations(found, 2):
        if set(found[one]) & set(found[other]):
            raise LocalClusterError(f"{one} {asked[one][1]} and {other} {asked[other][1]} overlap")

    def listen(option: str, index: int) -> str:
        if option not in found:
            return ""
        where, ports = asked[option][0], found[option]
        return f"{f'[{where}]' if ':' in where else where}:{ports[index] if ports else 0}"

    return [
        {
            "listen": listen("--port", index),
            "metrics_listen": listen("--metrics-port", index),
            "http": {"listen": listen("--http-port", index)},
        }
        for index in range(routers)
    ]


def _free_ports(option: str, host: str, first: int, count: int) -> range:
    """The ports from `first` on, which `option` named; none where that is 0: any free ones.

    Errors: LocalClusterError when one does not exist, or cannot be listened on.
    """
    ports = range(first, first + count if first else first)
    if not 0 <= first <= MAX_PORT or max(ports, default=0) > MAX_PORT:
        raise LocalClusterError(
            f"{option}: got {first} for {count} router(s), expected ports up to {MAX_PORT}, or 0"
        )
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise LocalClusterError(
            f"--host: got {host!r}, expected an address of this machine ({error.strerror})"
        ) from error
    for port in ports or (0,):
        with socket.socket(family, kind) as probe:
            # As the server will bind: a port in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address[0], port))
            except OSError as error:
                remedy = f"choose another with {option}" if port else "choose another with --host"
                raise LocalClusterError(
                    f"{host}, port {port} cannot be used ({os.strerror(error.errno or 0)});"
                    f" {remedy}"
                ) from error
    return ports


def find_model(model: str | Path | None) -> str:
    """A checkpoint folder as an absolute path, or a hub id as it is; None: the demo model.

    Errors: LocalClusterError when it is a folder that holds no checkpoint.
    """
    if model is None:
        return str(_checkpoint(_demo_model()))
    folder = Path(model).expanduser()
    if folder.exists() or isinstance(model, Path) or not is_hub_id(model):
        return str(_checkpoint(folder))
    return model


def _checkpoint(folder: Path) -> Path:
    try:
        found = find_checkpoint(str(folder), ()) if folder.exists() else folder
        if is_gguf(found):
            read_config(found)
            return found.absolute()  # a link's name says more than that of what it leads to
    except CheckpointError as error:
        raise LocalClusterError(str(error)) from error
    if (folder / "config.json").is_file():
        return folder.resolve()
    expected = (
        "expected a folder with config.json and .safetensors, a .gguf file or a hub id (owner/name)"
    )
    if folder.is_dir():
        raise LocalClusterError(f"no model in {folder}, which holds no config.json; {expected}")
    raise LocalClusterError(f"no model in {folder}, which does not exist; {expected}")


def _demo_model() -> Path:
    spec = importlib.util.find_spec("lengthwise_engine")
    if spec is None or not spec.submodule_search_locations:
        raise LocalClusterError(
            f"not installed: lengthwise_engine; a local cluster needs {_INSTALL}"
        )
    return Path(spec.submodule_search_locations[0]) / "demo_model"
