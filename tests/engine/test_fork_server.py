"""A fork is what a start would have been: in what it is given, how it ends, what outlives it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from harness.waiting import until

from lengthwise_engine.forks import server as servers
from lengthwise_engine.forks.process import NUMBER, ForkedProcess
from lengthwise_engine.forks.server import ForkServer, start_process

PROGRAM = """
import json, os, signal, sys, threading

def main():
    what = sys.argv[1]
    if what == "tell":
        facts = {
            "arguments": sys.argv[2:], "greeting": os.environ.get("GREETING"),
            "variables": len(os.environ), "folder": os.getcwd(),
            "leads": os.getsid(0) == os.getpid(),
            "descriptors": [n for n in range(1000) if os.path.exists(f"/proc/self/fd/{n}")],
            "threads": threading.active_count(),
        }
        os.write(int(sys.argv[2]), json.dumps(facts).encode())
    elif what == "exit":
        sys.exit(int(sys.argv[2]))
    elif what == "raise":
        raise KeyError("a bug")
    elif what == "wait":
        signal.pause()
"""

USER = """
import os, signal, sys
from lengthwise_engine.forks.server import ForkServer

server = ForkServer.spawn(["torch"], os.environ)
print(server._process.pid, flush=True)
signal.pause()
"""

SERVER = """
import os, signal, socket
from lengthwise_engine.forks.serving import serve

ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
ours.close()
serve(theirs, [])
os.kill(os.getpid(), signal.SIGCHLD)
"""


@pytest.fixture(scope="module")
def make_server(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], ForkServer]:
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.py").write_text(PROGRAM)
    return lambda: ForkServer.spawn(["numpy"], {**os.environ, "PYTHONPATH": str(folder)})


@pytest.fixture(scope="module")
def server(make_server: Callable[[], ForkServer]) -> Iterator[ForkServer]:
    server = make_server()
    yield server
    server.close()


def run(server: ForkServer, *arguments: str) -> ForkedProcess:
    return server.start("program", arguments, env=os.environ, descriptors={})


@pytest.mark.slow
def test_a_fork_has_what_it_was_given_and_nothing_else(server: ForkServer, tmp_path: Path) -> None:
    read, write = os.pipe()
    arguments, env = ["tell", "900", "", "ä b"], {"GREETING": "grüß\udc80"}
    given = {900: write, write: read}  # under each other's numbers, or any
    process = server.start("program", arguments, env=env, descriptors=given, folder=tmp_path)
    assert process.wait(20.0) == 0
    facts = json.loads(os.read(read, 4096))
    os.close(read)
    os.close(write)
    assert facts == {
        "arguments": arguments[1:],
        "greeting": env["GREETING"],
        "variables": 1,
        "folder": str(tmp_path),
        "leads": True,
        "descriptors": sorted([0, 1, 2, write, 900]),
        "threads": 1,
    }


def test_its_end_is_that_of_a_started_process(server: ForkServer) -> None:
    assert run(server, "exit", "7").wait(20.0) == 7
    assert run(server, "exit", "0").wait(20.0) == 0
    assert run(server, "raise").wait(20.0) == 1
    killed = run(server, "wait")
    assert killed.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        killed.wait(0.05)
    os.kill(killed.pid, signal.SIGTERM)
    assert killed.wait(20.0) == -signal.SIGTERM
    killed.kill()  # again, which is nothing
    assert killed.poll() == -signal.SIGTERM


def test_what_is_sent_to_one_fork_reaches_no_other(server: ForkServer) -> None:
    one, other = run(server, "wait"), run(server, "wait")
    frozen = psutil.Process(one.pid)
    frozen.suspend()
    until(lambda: frozen.status() == psutil.STATUS_STOPPED)
    assert psutil.Process(other.pid).status() != psutil.STATUS_STOPPED
    assert run(server, "exit", "3").wait(20.0) == 3
    one.kill()
    assert one.wait(20.0) == -signal.SIGKILL
    assert other.poll() is None
    other.kill()
    assert other.wait(20.0) == -signal.SIGKILL


def test_it_is_listed_as_what_it_runs(server: ForkServer) -> None:
    process = run(server, "wait", "--config", "/here")
    listed = psutil.Process(process.pid)
    expected = [sys.executable, "-m", "program", "wait", "--config", "/here"]
    until(lambda: listed.cmdline()[: len(expected)] == expected)
    process.kill()
    process.wait(20.0)


def test_several_threads_may_ask_at_once(server: ForkServer) -> None:
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: codes.append(run(server, "exit", str(n)).wait(20.0)))
        for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == list(range(16))


@pytest.mark.parametrize("ask", [lambda process: process.pid, lambda process: process.wait(20.0)])
def test_a_thread_that_waits_holds_up_no_other(ask: Callable[[ForkedProcess], int]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process, answers = ForkedProcess(ours), list[int]()
    thread = threading.Thread(target=lambda: answers.append(ask(process)))
    with theirs:
        thread.start()
        until(lambda: process._is_read)
        began_at = time.monotonic()
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert time.monotonic() - began_at < 10, "it waited for the other one"
        theirs.send(NUMBER.pack(12345))
        assert process.pid == 12345
        theirs.send(NUMBER.pack(3))
        thread.join(10.0)
        assert process.wait(10.0) == 3
    assert answers in ([12345], [3])


@pytest.mark.slow
def test_a_fork_does_not_outlive_the_server_that_would_tell_its_end(
    make_server: Callable[[], ForkServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_server()
    process = run(server, "wait")
    pid = process.pid
    server.close()
    assert process.wait(20.0) == -signal.SIGKILL
    until(lambda: not psutil.pid_exists(pid))
    with pytest.raises(OSError, match=r".+"):
        run(server, "exit", "0")
    # Children are started anew from then on.
    monkeypatch.setattr(servers, "_own", server)
    started = start_process("platform", [], inherited=[], env=os.environ)
    assert isinstance(started, subprocess.Popen)
    assert started.wait(20.0) == 0


def test_more_than_a_request_holds_is_refused(server: ForkServer) -> None:
    with pytest.raises(OSError, match="arguments and environment of"):
        run(server, "exit", "0" * 200_000)


def test_a_fork_that_ends_after_its_server_has_nothing_to_say() -> None:
    run = subprocess.run([sys.executable, "-c", SERVER], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.slow
def test_a_server_ends_with_its_user_even_while_it_imports() -> None:
    with subprocess.Popen([sys.executable, "-c", USER], stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        pid = int(user.stdout.readline())
        user.kill()
    until(lambda: not psutil.pid_exists(pid), 20.0)
