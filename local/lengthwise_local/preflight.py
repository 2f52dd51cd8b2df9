"""What can be known to be wrong before anything is started, each in one line with its remedy."""

import importlib.util
import os
import socket
from pathlib import Path

from lengthwise_checkpoint.hub import is_hub_id
from lengthwise_local.errors import LocalClusterError
from lengthwise_local.process import Role

MODULES: dict[Role, str] = {
    "prefill": "lengthwise_prefill_worker",
    "decode": "lengthwise_decode_worker",
    "router": "lengthwise_router",
}

_REQUIRED = (
    *("grpc_health", "grpc_reflection", "pydantic", "yaml", "prometheus_client"),
    *("tokenizers", "jinja2", "huggingface_hub", "torch", "safetensors", "xxhash"),
)
"""What the extras `router` and `worker` bring, under the names that are imported."""

_INSTALL = 'pip install "lengthwise[cli,router,worker]"'


def require_extras() -> None:
    """Errors: LocalClusterError naming what is not installed and how to install it."""
    names = (*MODULES.values(), *_REQUIRED)
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise LocalClusterError(
            f"not installed: {', '.join(missing)}; a local cluster needs {_INSTALL}"
        )


def require_free_port(port: int) -> None:
    """Errors: LocalClusterError when something listens on the loopback port. 0 is any free port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the server will bind: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise LocalClusterError(
                f"port {port} cannot be used ({os.strerror(error.errno or 0)});"
                " choose another with --port"
            ) from error


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
    if not (folder / "config.json").is_file():
        found = "which holds no config.json" if folder.is_dir() else "which is no folder"
        raise LocalClusterError(
            f"no model in {folder}, {found}; expected a checkpoint folder or a hub id (owner/name)"
        )
    return folder.resolve()


def _demo_model() -> Path:
    spec = importlib.util.find_spec("lengthwise_engine")
    if spec is None or not spec.submodule_search_locations:
        raise LocalClusterError(
            f"not installed: lengthwise_engine; a local cluster needs {_INSTALL}"
        )
    return Path(spec.submodule_search_locations[0]) / "demo_model"
