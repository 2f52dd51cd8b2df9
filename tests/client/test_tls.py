"""With TLS both sides show who they are, and a stranger is refused."""

import shutil
import subprocess
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from harness.scripted_router import Router

from lengthwise import AsyncClient, Client, NoWorkerAvailable, Retry, Tls
from lengthwise.v1 import inference_pb2_grpc

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="makes keys with openssl")


def openssl(*arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and server.pem and client.pem that it signed, with their keys."""
    folder = tmp_path_factory.mktemp("keys")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    authority = ("-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    openssl("req", *curve, *authority, folder=folder)
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "client"):
        request = ("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("req", *curve, *request, folder=folder)
        signed = ("-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", "names", "-days", "2")
        signer = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        openssl("x509", "-req", *signed, *signer, folder=folder)
    return folder


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
