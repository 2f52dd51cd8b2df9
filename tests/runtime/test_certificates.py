"""Certificates are read again when their files change, and what cannot be used changes nothing."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness.keys import make_keys

from lengthwise_runtime.channel import open_channel
from lengthwise_runtime.config import ConfigError
from lengthwise_runtime.server import Server
from lengthwise_runtime.tls.config import CallerNames, TlsConfig

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="makes keys with openssl")


def tls_of(folder: Path, name: str) -> TlsConfig:
    return TlsConfig(
        certificate=folder / f"{name}.pem",
        private_key=folder / f"{name}.key",
        authority=folder / "ca.pem",
        server_name="localhost",
    )


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    return make_keys(tmp_path / "keys")


@pytest.fixture
async def address(keys: Path) -> AsyncIterator[str]:
    server = Server("127.0.0.1:0", tls_of(keys, "server"), [])
    yield str(await server.start())
    await server.stop(0)


async def is_served(address: str, tls: TlsConfig) -> bool:
    async with open_channel(address, tls) as channel:
        request = health_pb2.HealthCheckRequest(service="live")
        try:
            await health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE
    return True


async def test_a_renewed_certificate_needs_no_restart(
    address: str, keys: Path, tmp_path: Path
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(keys, before)
    after.mkdir()
    make_keys(after)
    assert await is_served(address, tls_of(keys, "client"))
    assert not await is_served(address, tls_of(after, "client"))
    shutil.copytree(after, keys, dirs_exist_ok=True)
    assert await is_served(address, tls_of(keys, "client"))
    assert not await is_served(address, tls_of(before, "client"))


@pytest.mark.parametrize("text", ["", "no certificate"])
async def test_a_file_that_cannot_be_used_changes_nothing(
    address: str, keys: Path, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = shutil.copytree(keys, tmp_path / "before")
    (keys / "server.pem").write_text(text)
    assert await is_served(address, tls_of(before, "client"))
    assert await is_served(address, tls_of(before, "client"))
    told = [record for record in caplog.records if "stays as it was" in record.getMessage()]
    assert len(told) == 1
    assert "server.pem" in told[0].getMessage()


@pytest.mark.parametrize("name", ["server.pem", "server.key", "ca.pem"])
async def test_files_that_do_not_fit_are_refused_by_name_at_start(keys: Path, name: str) -> None:
    (keys / name).write_text("no PEM")
    with pytest.raises(ConfigError, match=name):
        await Server("127.0.0.1:0", tls_of(keys, "server"), []).start()
    (keys / name).unlink()
    with pytest.raises(ConfigError, match=f"cannot read .*{name}"):
        await Server("127.0.0.1:0", tls_of(keys, "server"), []).start()


def test_names_need_an_authority_that_vouches_for_them(keys: Path) -> None:
    with pytest.raises(ValueError, match="without an authority"):
        TlsConfig(
            certificate=keys / "server.pem",
            private_key=keys / "server.key",
            callers=CallerNames(routers=("router",), workers=("worker",)),
        )
