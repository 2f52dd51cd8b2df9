"""`import lengthwise` offers the public names, all of them, and needs grpcio and protobuf alone."""

import inspect
import subprocess
import sys

import lengthwise
from lengthwise import errors, explanation, types

PRIVATE = {"ERROR_KEY", "RETRY_AFTER_KEY", "from_status"}
"""Public in `lengthwise_wire.errors` for servers; users have no use for them."""


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
    values = public_names(types) | public_names(explanation)
    defined = public_names(errors) | values | {"FinishReason", "Prompt"}
    clients = {"AsyncClient", "AsyncTransport", "Client", "Transport"}
    assert set(lengthwise.__all__) == (defined - PRIVATE) | clients


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
