"""`import lengthwise` offers the public names, all of them, and needs grpcio and protobuf alone."""

import importlib
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lengthwise
import lengthwise_wire.errors
from lengthwise import conversation, errors, explanation, settings, status, types
from lengthwise_wire.v1 import (
    common_pb2,
    decode_pb2,
    inference_pb2,
    prefill_pb2,
    worker_pb2,
)

PRIVATE = {"ERROR_KEY", "RETRY_AFTER_KEY", "from_status"}
"""Public in `lengthwise.errors` for servers; users have no use for them."""

WIRE_MODULES = [
    f"{name}_pb2{suffix}"
    for name in ("common", "decode", "inference", "prefill", "worker")
    for suffix in ("", "_grpc")
]

METHODS = {
    "Inference": ["Generate", "GetModel", "ListModels", "Tokenize", "Explain", "GetStatus"],
    "Worker": ["Watch", "SetRole"],
    "PrefillWorker": ["Prefill"],
    "DecodeWorker": ["Reserve", "Release", "Tokens", "Transfer"],
}
"""Of package lengthwise.v1: never renamed."""


def public_names(module: object) -> set[str]:
    """What a module defines itself."""
    name = getattr(module, "__name__", "")
    return {
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", None) == name
    }


def test_all_is_sorted_and_real() -> None:
    assert lengthwise.__all__ == sorted(lengthwise.__all__)
    assert all(hasattr(lengthwise, name) for name in lengthwise.__all__)


def test_every_public_name_is_exported() -> None:
    modules = (conversation, explanation, settings, status, types)
    values = {name for module in modules for name in public_names(module)}
    defined = (set(errors.__all__) - PRIVATE) | values | {"FinishReason", "Prompt"}
    clients = {"AsyncClient", "AsyncTransport", "Client", "Transport"}
    assert set(lengthwise.__all__) == defined | clients


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert lengthwise.__version__ == project["version"]


def test_without_an_installation_the_import_works_and_has_a_version() -> None:
    script = (
        "import sys, importlib.metadata as metadata\n"
        "def version(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = version\n"
        "import lengthwise\n"
        "print(lengthwise.__version__)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert run.stdout == "0+source\n"


def test_the_errors_are_those_of_the_wire() -> None:
    """One class each, so that `except` finds what the other side raised."""
    assert public_names(lengthwise_wire.errors) == set(errors.__all__) - {
        "ERROR_KEY",
        "RETRY_AFTER_KEY",
    }
    for name in errors.__all__:
        assert getattr(errors, name) is getattr(lengthwise_wire.errors, name)


@pytest.mark.parametrize("name", WIRE_MODULES)
def test_the_messages_and_stubs_are_those_of_the_wire(name: str) -> None:
    offered = importlib.import_module(f"lengthwise.v1.{name}")
    wire = importlib.import_module(f"lengthwise_wire.v1.{name}")
    public = [key for key in vars(wire) if not key.startswith("_")]
    assert public
    for key in public:
        assert getattr(offered, key) is getattr(wire, key)


def test_the_package_on_the_wire_is_lengthwise_v1() -> None:
    files = [
        module.DESCRIPTOR
        for module in (common_pb2, decode_pb2, inference_pb2, prefill_pb2, worker_pb2)
    ]
    assert {file.package for file in files} == {"lengthwise.v1"}
    services = {name: service for file in files for name, service in file.services_by_name.items()}
    assert {
        name: [method.full_name for method in service.methods] for name, service in services.items()
    } == {
        name: [f"lengthwise.v1.{name}.{method}" for method in methods]
        for name, methods in METHODS.items()
    }
    assert inference_pb2.GenerateRequest.DESCRIPTOR.full_name == "lengthwise.v1.GenerateRequest"


def test_stubs_call_the_paths_of_lengthwise_v1() -> None:
    class Paths:
        """A channel that notes what is asked of it."""

        def __init__(self) -> None:
            self.seen: list[str] = []

        def __getattr__(self, kind: str) -> object:
            return lambda path, **_: self.seen.append(path)

    channel = Paths()
    for file in ("inference", "worker", "prefill", "decode"):
        module = importlib.import_module(f"lengthwise.v1.{file}_pb2_grpc")
        for name, stub in vars(module).items():
            if name.endswith("Stub"):
                stub(channel)
    assert sorted(channel.seen) == sorted(
        f"/lengthwise.v1.{name}/{method}" for name, methods in METHODS.items() for method in methods
    )


def test_both_clients_have_the_same_verbs() -> None:
    def verbs(client: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("_")
        }

    assert verbs(lengthwise.Client) == verbs(lengthwise.AsyncClient)


def test_the_import_needs_grpc_and_protobuf_alone() -> None:
    script = (
        "import sys\n"
        "for name in ('typer', 'rich', 'yaml', 'pydantic', 'torch', 'numpy'):\n"
        "    sys.modules[name] = None\n"
        "import lengthwise, lengthwise.fake, lengthwise_local\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_the_import_loads_no_policy() -> None:
    script = (
        "import sys, lengthwise, lengthwise.fake\n"
        "ours = {name.partition('.')[0] for name in sys.modules if name.startswith('lengthwise')}\n"
        "assert ours == {'lengthwise', 'lengthwise_wire'}, ours\n"
        "assert 'lengthwise_wire.convert' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_one_import_brings_the_errors_along() -> None:
    program = "import lengthwise; lengthwise.errors.Overloaded; lengthwise.types.Chunk"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
