"""An endpoint that is no router: one line says what is there instead, soon."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest

from lengthwise_cli.diagnosis import find


@contextmanager
def http_server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def silent_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def another_grpc_server() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait(10)


@contextmanager
def closed_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    yield address


CASES = [
    pytest.param("model", http_server, "an HTTP server listens there", id="HTTP"),
    pytest.param("model", silent_server, "what listens there says nothing", id="silent"),
    *(
        pytest.param(command, server, message, id=f"{command}-{name}")
        for command in ("model", "status", "bench", "chat")
        for name, server, message in (
            ("gRPC", another_grpc_server, "a gRPC server listens there, but no router"),
            ("closed", closed_port, "nothing listens there; start a deployment here"),
        )
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "server", "message"), CASES)
def test_what_is_no_router_is_named_in_one_line(command: str, server: object, message: str) -> None:
    assert callable(server)
    with server() as address:
        arguments = [command, *(["hi"] if command == "chat" else []), "-e", address]
        began_at = time.monotonic()
        result = subprocess.run(
            [sys.executable, "-m", "lengthwise_cli.main", *arguments],
            capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip
    assert time.monotonic() - began_at < 45
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"lengthwise: no router answers at {address}: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("endpoint", "finding"),
    [
        pytest.param("127.0.0.1:99999", "there is no port 99999", id="no such port"),
        pytest.param("no.such.host.invalid:1", "there is no host no.such.host", id="no such host"),
        pytest.param("dns:///router:50051", "", id="a name for gRPC alone"),
    ],
)
def test_an_address_that_cannot_be_is_told(endpoint: str, finding: str) -> None:
    assert find(endpoint).startswith(finding) if finding else find(endpoint) == ""
