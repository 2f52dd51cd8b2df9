"""How the transfer process starts, ends, and dies with its parent."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from harness.waiting import until
from transfer.ends import End, new_cache, start_processes

from lengthwise_engine.forks import server as servers
from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.transfer.base import ProcessLost, ProcessReady, TransferEvent
from lengthwise_engine.transfer.config import TransferConfig, TransferStartError
from lengthwise_engine.transfer.supervisor.supervisor import TransferProcess

PARENT = """
import sys, time, torch
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.forks import server as servers
from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.transfer.config import TransferConfig
from lengthwise_engine.transfer.supervisor.supervisor import TransferProcess

layout = KVLayout(num_layers=1, num_kv_heads=1, head_dim=8, block_size=16, dtype="float32")
cache = KVCache.allocate(layout, 4, torch.device("cpu"))
process = TransferProcess(KVShards.of(cache), TransferConfig(), lambda event: None)
process.start()
process.wait_ready()
print(process.pid, flush=True)
time.sleep(60)
"""

CACHE = new_cache(1)
SHARDS = KVShards.of(CACHE)

STRANGER = """
import os, sys, time
os.write(int(sys.argv[-1]), b"hello, world")
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def without_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts are those of a worker whose fork server has died."""
    monkeypatch.setattr(servers, "_own", None)


def executable(folder: Path, script: str) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        pytest.param("exit 3", "it died (exit status 3)", id="dies"),
        pytest.param("exec sleep 60", "was not ready within 0.5 s", id="hangs"),
        pytest.param(f"exec {sys.executable} -c '{STRANGER}' $*", "frame of", id="is no child"),
    ],
)
def test_a_start_that_fails_says_why_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, problem: str
) -> None:
    monkeypatch.setattr(sys, "executable", executable(tmp_path, script))
    process = TransferProcess(SHARDS, TransferConfig(start_seconds=0.5), print)
    process.start()
    with pytest.raises(TransferStartError) as caught:
        process.wait_ready()
    assert problem in str(caught.value)
    with pytest.raises(TransferStartError):
        process.connect("link", "127.0.0.1:1")
    process.stop()


@pytest.mark.slow
def test_a_process_that_was_killed_before_it_was_ready_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where memory is short: the worker would only be started anew itself."""
    mark = tmp_path / "mark"
    script = f"[ -e {mark} ] && exec {sys.executable} $*; touch {mark}; kill -9 $$"
    monkeypatch.setattr(sys, "executable", executable(tmp_path, script))
    events: list[TransferEvent] = []
    process = TransferProcess(SHARDS, TransferConfig(), events.append)
    process.start()
    process.wait_ready()
    until(lambda: [type(event) for event in events] == [ProcessLost, ProcessReady])
    process.stop()


def test_a_program_that_is_not_there_is_a_start_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    process = TransferProcess(SHARDS, TransferConfig(), print)
    process.start()
    with pytest.raises(TransferStartError) as caught:
        process.wait_ready()
    assert "cannot be started" in str(caught.value)
    process.stop()


def test_nccl_refuses_a_cache_on_the_cpu() -> None:
    with pytest.raises(ValueError, match="'nccl' cannot move a KV cache on cpu"):
        TransferProcess(SHARDS, TransferConfig(backend="nccl"), print)


def test_an_address_in_use_is_an_error_at_once() -> None:
    first = TransferProcess(SHARDS, TransferConfig(), print)
    port = int(first.rendezvous.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        TransferProcess(SHARDS, TransferConfig(listen_port=port), print)
    first.stop()


def test_peers_receive_the_advertised_host() -> None:
    process = TransferProcess(
        SHARDS, TransferConfig(listen_host="0.0.0.0", advertise_host="10.1.2.3"), print
    )
    assert process.rendezvous.startswith("10.1.2.3:")
    process.stop()


@pytest.mark.slow
def test_stop_ends_a_sound_and_a_frozen_process_in_bounded_time() -> None:
    ends = End(new_cache(1)), End(new_cache(1))
    start_processes(TransferConfig(), *ends)
    os.kill(ends[1].transfer.pid, signal.SIGSTOP)
    for end in ends:
        pid, started_at = end.transfer.pid, time.monotonic()
        end.transfer.stop()
        assert time.monotonic() - started_at < 8.0
        assert not psutil.pid_exists(pid)


@pytest.mark.slow
def test_the_process_dies_with_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    until(lambda: not psutil.pid_exists(pid))


@pytest.mark.slow
def test_a_user_that_fails_on_an_event_is_notified_at_its_next_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(event: TransferEvent) -> None:
        raise KeyError("a bug")

    process = TransferProcess(SHARDS, TransferConfig(connect_seconds=0.2), fail)
    process.start()
    process.wait_ready()
    pid = process.pid
    assert pid is not None
    process.accept("no peer comes")
    until(lambda: not psutil.pid_exists(pid))
    until(lambda: "KV transfer has ended" in caplog.text)
    with pytest.raises(TransferStartError) as caught:
        process.accept("again")
    assert isinstance(caught.value.__cause__, KeyError)
    process.stop()


def test_the_listener_of_a_worker_takes_ipv6() -> None:
    process = TransferProcess(SHARDS, TransferConfig(listen_host="::1"), print)
    assert process.rendezvous.startswith("[::1]:")
    process.stop()
