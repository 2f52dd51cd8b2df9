"""Files of keys that change while a router runs, and what is said when one starts."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.keys import make_keys
from prometheus_client import CollectorRegistry
from router.deployment import PROMPT, Deploy
from router.keys.keys import entry, write

import lengthwise
from lengthwise_router.config import KeysConfig
from lengthwise_router.keys.keyring import Keyring
from lengthwise_router.keys.metrics import KeyMetrics
from lengthwise_runtime.config import Address, ConfigError
from lengthwise_runtime.tls.config import TlsConfig
from lengthwise_wire.errors import LimitExceeded, Unauthenticated


class Looked:
    """A keyring, and what it counted."""

    def __init__(self, path: Path) -> None:
        self._registry = CollectorRegistry()
        self.ring = Keyring(path, router_replicas=1, metrics=KeyMetrics(self._registry))

    def knows(self, key: str) -> bool:
        try:
            self.ring.find([f"Bearer {key}".encode()])
        except Unauthenticated:
            return False
        return True

    def reads(self, outcome: str) -> float:
        name = "lengthwise_key_file_reads_total"
        return self._registry.get_sample_value(name, {"outcome": outcome}) or 0.0


async def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "keys.yaml", entry("alice"))
    keys = Looked(path)
    write(path, entry("bob"))
    await keys.ring.look()
    await keys.ring.look()
    assert (keys.knows("lw-alice"), keys.knows("lw-bob")) == (False, True)
    assert (keys.reads("ok"), keys.reads("failed")) == (2, 0)


async def test_a_secret_of_kubernetes_is_replaced_by_its_link(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "keys.yaml", entry(name))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "keys.yaml").symlink_to("..data/keys.yaml")
    keys = Looked(tmp_path / "keys.yaml")
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(tmp_path / "..data")
    await keys.ring.look()
    assert (keys.knows("lw-one"), keys.knows("lw-two")) == (False, True)


def _vanish(path: Path) -> None:
    path.unlink()


def _become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _become_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _become_empty(path: Path) -> None:
    path.write_text("")


def _have_a_wrong_field(path: Path) -> None:
    write(path, entry("bob", priority="lw-alice"))


@pytest.mark.parametrize(
    "change", [_vanish, _become_folder, _become_fifo, _become_empty, _have_a_wrong_field]
)
async def test_a_file_that_cannot_be_used_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Path], None]
) -> None:
    path = write(tmp_path / "keys.yaml", entry("alice"))
    keys = Looked(path)
    change(path)
    async with asyncio.timeout(10):
        await keys.ring.look()
        await keys.ring.look()
    assert keys.knows("lw-alice")
    assert keys.reads("failed") == 1, "one line, and not one each second"
    (record,) = caplog.records
    assert "the API keys stay as they were" in record.getMessage()
    assert "lw-alice" not in record.getMessage()
    with pytest.raises(ConfigError):
        Looked(path)
    if path.is_dir():
        path.rmdir()
    write(path, entry("bob"))
    await keys.ring.look()
    assert (keys.knows("lw-alice"), keys.knows("lw-bob")) == (False, True)


async def test_what_was_used_stays_used_while_the_limit_is_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "keys.yaml", entry("alice", requests_per_minute=1))
    ring = Looked(path).ring

    def begin() -> None:
        with ring.find([b"Bearer lw-alice"]).usage.of_request():
            pass

    begin()
    write(path, entry("alice", requests_per_minute=1, priority=3), entry("bob"))
    await ring.look()
    assert ring.find([b"Bearer lw-alice"]).entry.priority == 3
    with pytest.raises(LimitExceeded):
        begin()
    write(path, entry("alice", requests_per_minute=2))
    await ring.look()
    begin()


async def test_keys_that_anybody_may_read_on_the_way_are_warned_of_once(
    deploy: Deploy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = KeysConfig(file=write(tmp_path / "keys.yaml", entry("alice")))
    await deploy(0, 0, keys=keys, extra_endpoints=["127.0.0.1:1"])
    assert not [each for each in caplog.records if "without TLS" in each.getMessage()]
    await deploy(0, 0, keys=keys, extra_endpoints=["127.0.0.1:1"], listen="0.0.0.0:0")
    (warning,) = [each for each in caplog.records if "without TLS" in each.getMessage()]
    assert warning.levelname == "WARNING"
    assert "0.0.0.0:0" in warning.getMessage()


@pytest.mark.parametrize(
    ("text", "is_loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("router.example:1", False),
    ],
)
def test_an_address_is_loopback_or_not(text: str, is_loopback: bool) -> None:
    assert Address.parse(text).is_loopback is is_loopback


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("openssl"), reason="makes keys with openssl")
async def test_where_certificates_are_asked_for_too_both_are_needed(
    deploy: Deploy, tmp_path: Path
) -> None:
    pem = await asyncio.to_thread(make_keys, tmp_path)
    tls = TlsConfig(
        certificate=pem / "server.pem", private_key=pem / "server.key", authority=pem / "ca.pem"
    )
    keys = KeysConfig(file=write(tmp_path / "keys.yaml", entry("alice")))
    deployment = await deploy(client_tls=tls, keys=keys)
    address = str(deployment.app.address)
    shown = lengthwise.Tls(
        authority=pem / "ca.pem", certificate=pem / "client.pem", private_key=pem / "client.key"
    )
    hidden = lengthwise.Tls(authority=pem / "ca.pem")
    once: dict[str, Any] = {"retry": lengthwise.Retry(attempts=1), "timeout": 20.0}
    async with lengthwise.AsyncClient(address, tls=shown, api_key="lw-alice", **once) as client:
        await client.generate(list(PROMPT), max_tokens=2)
        with pytest.raises(lengthwise.PermissionDenied, match="tenant: got 'bob'"):
            await client.generate(list(PROMPT), max_tokens=2, tenant="bob")
    async with lengthwise.AsyncClient(address, tls=shown, **once) as client:
        with pytest.raises(lengthwise.Unauthenticated):
            await client.models()
    async with lengthwise.AsyncClient(address, tls=hidden, api_key="lw-alice", **once) as client:
        with pytest.raises(lengthwise.NoWorkerAvailable):
            await client.models()
    (reserve,) = deployment.decode[0].reserves
    assert reserve.cache_salt
