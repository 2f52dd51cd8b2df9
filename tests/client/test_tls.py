"""With TLS both sides show who they are, and a stranger is refused."""

import shutil
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from client.scripted_router import Router
from harness.keys import make_keys

from lengthwise import AsyncClient, Client, NoWorkerAvailable, Retry, Tls
from lengthwise_wire.v1 import inference_pb2_grpc

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="makes keys with openssl")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def address(keys: Path) -> Iterator[str]:
    """A router that wants to see the client's certificate."""
    pair = ((keys / "server.key").read_bytes(), (keys / "server.pem").read_bytes())
    credentials = grpc.ssl_server_credentials([pair], (keys / "ca.pem").read_bytes(), True)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    inference_pb2_grpc.add_InferenceServicer_to_server(Router(), server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"localhost:{port}"
    server.stop(None).wait(10)


def test_a_client_with_a_certificate_is_let_in(address: str, keys: Path) -> None:
    tls = Tls(
        authority=keys / "ca.pem",
        certificate=keys / "client.pem",
        private_key=keys / "client.key",
    )
    with Client(address, tls=tls) as client:
        assert client.model().name == "toy"


async def test_an_async_client_with_a_certificate_is_let_in(address: str, keys: Path) -> None:
    tls = Tls(
        authority=keys / "ca.pem",
        certificate=keys / "client.pem",
        private_key=keys / "client.key",
    )
    async with AsyncClient(address, tls=tls) as client:
        assert (await client.model()).name == "toy"


def test_a_stranger_is_refused(address: str, keys: Path) -> None:
    tls = Tls(authority=keys / "ca.pem")
    with (
        Client(address, tls=tls, retry=Retry(attempts=1)) as client,
        pytest.raises(NoWorkerAvailable, match="localhost"),
    ):
        client.model()


def test_a_server_of_another_authority_is_not_spoken_to(address: str, keys: Path) -> None:
    tls = Tls(authority=keys / "client.pem")
    with (
        Client(address, tls=tls, retry=Retry(attempts=1)) as client,
        pytest.raises(NoWorkerAvailable, match="localhost"),
    ):
        client.model()
