"""`lengthwise up` starts, reports, brings back, drains, and leaves nothing behind."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from cli.conftest import Terminal

UP = Path(__file__).with_name("up.py")


class Up:
    """The command, running."""

    def __init__(self, *command: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""

    def read_until(self, pattern: str) -> re.Match[str]:
        """Bounded by pytest's own timeout."""
        assert self.popen.stdout is not None
        while not (match := re.search(pattern, self.output)):
            line = self.popen.stdout.readline()
            assert line, f"ended without {pattern!r}:\n{self.output}"
            self.output += line
        return match

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.popen.pid).children(recursive=True)

    def finish(self) -> int:
        output, _ = self.popen.communicate(timeout=20)
        self.output += output
        return self.popen.returncode


def processes_of(folder: Path) -> list[str]:
    """The command lines of processes with a configuration in this folder. They are killed."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if f"--config {folder}" in line:
            found.append(line)
            process.kill()
    return found


@contextmanager
def running(model: Path, **arguments: object) -> Iterator[Up]:
    """up.py with these arguments of LocalCluster."""
    up = Up(str(UP), json.dumps({"model": str(model), **arguments}))
    try:
        yield up
    finally:
        up.popen.kill()
        up.popen.__exit__(None, None, None)


def gone(children: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(children, timeout=5)
    return not alive


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_it_says_how_to_call_it_and_drains_when_asked(model: Path, signum: int) -> None:
    with running(model, decode=2) as up:
        address = up.read_until(r"ready after .* s on (127.0.0.1:\d+)")[1]
        up.read_until(r"Ctrl-C stops it")
        assert "decode-1 is ready on 127.0.0.1" in up.output
        assert f"lengthwise generate 'def read_lines(path):' --endpoint {address}" in up.output
        assert f"Client('{address}').generate(" in up.output
        children = up.children()
        assert len(children) == 4
        up.popen.send_signal(signum)
        assert up.finish() == 0
        assert gone(children)
        assert "logs:" not in up.output


@pytest.mark.slow
def test_a_worker_that_dies_comes_back(model: Path) -> None:
    with running(model) as up:
        up.read_until(r"Ctrl-C stops it")
        children = up.children()
        children[0].kill()
        up.read_until(r"prefill-0 was killed by SIGKILL; its log ends:\nbehaviour: good\n")
        up.read_until(r"restarting prefill-0 in 0\.5 s")
        up.read_until(r"prefill-0 is ready again on")
        children += up.children()
        up.popen.send_signal(signal.SIGTERM)
        assert up.finish() == 0
        assert gone(children)
        folder = re.search(r"logs: (\S+)", up.output)
        assert folder is not None
        assert (Path(folder[1]) / "prefill-0.log").exists()


@pytest.mark.slow
def test_a_process_that_cannot_start_is_named_with_its_last_words(model: Path) -> None:
    with running(model, configs={"decode": {"behaviour": "crash"}}) as up:
        assert up.finish() == 1
        assert re.search(r"lengthwise: decode-\d ended with exit code 1", up.output)
        assert "cannot allocate the cache" in up.output
        assert "logs: " in up.output
        assert "Traceback" not in up.output


@pytest.mark.slow
def test_a_load_shows_where_there_is_no_terminal(model: Path) -> None:
    with running(model, configs={"decode": {"behaviour": "load"}}) as up:
        up.read_until(r"decode-0 is loading m\[odel\]: 16 of 64 MiB, 1.5 s\n")
        up.popen.send_signal(signal.SIGINT)
        assert up.finish() == 0
        assert up.output.count("16 of 64 MiB") == 1


@pytest.mark.slow
def test_a_load_shows_on_a_terminal(model: Path) -> None:
    arguments = {"model": str(model), "configs": {"prefill": {"behaviour": "load"}}}
    program = f"runpy.run_path({str(UP)!r}, run_name='__main__')"
    terminal = Terminal(json.dumps(arguments), program=program)
    terminal.read_until("waiting for prefill-0 (")
    terminal.read_until("prefill-0 is loading m[odel]: 16 of 64 MiB, 1.5 s")
    terminal.type("\x03")
    assert terminal.finish() == 0


@pytest.mark.slow
def test_an_interrupt_while_starting_leaves_nothing_behind(model: Path) -> None:
    with running(model, configs={"decode": {"behaviour": "mute"}}) as up:
        deadline = time.monotonic() + 10.0
        while len(up.children()) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        children = up.children()
        up.popen.send_signal(signal.SIGINT)
        assert up.finish() == 0
        assert gone(children)


@pytest.mark.slow
@pytest.mark.parametrize("start", [1, 3])
def test_an_interrupt_between_a_start_and_its_bookkeeping_leaves_nothing_behind(
    model: Path, start: int, tmp_path: Path
) -> None:
    with running(model, interrupted_at=start, folder=str(tmp_path / "run")) as up:
        assert up.finish() == 0
    assert not processes_of(tmp_path / "run")


@pytest.mark.slow
def test_an_interrupt_while_a_dead_process_is_started_again_leaves_nothing_behind(
    model: Path, tmp_path: Path
) -> None:
    with running(model, interrupted_at=4, folder=str(tmp_path / "run")) as up:
        up.read_until(r"Ctrl-C stops it")
        up.children()[0].kill()
        assert up.finish() == 0
    assert not processes_of(tmp_path / "run")


@pytest.mark.slow
def test_a_second_interrupt_kills(model: Path) -> None:
    with running(model, configs={"prefill": {"behaviour": "stubborn"}}) as up:
        up.read_until(r"Ctrl-C stops it")
        children = up.children()
        up.popen.send_signal(signal.SIGINT)
        assert gone(children[-1:]), "the router did not drain first"
        up.popen.send_signal(signal.SIGINT)
        assert up.finish() == 0
        assert gone(children)
        assert "killed, because it did not end by itself: prefill-0" in up.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("--device", "tpu"), "lengthwise: device: got 'tpu', expected", id="device"),
        pytest.param(("--model", "/nowhere"), "lengthwise: no model in /nowhere", id="model"),
        pytest.param(("--model", "a/b", "--decode", "0"), "lengthwise: decode: got 0", id="count"),
        pytest.param(
            ("--kv-dtype", "int5"), "lengthwise: prefill setting is invalid: kv_dtype: ", id="KV"
        ),
    ],
)
def test_what_cannot_work_is_one_line_before_anything_starts(
    arguments: tuple[str, ...], message: str
) -> None:
    up = Up("-m", "lengthwise_cli.main", "up", *arguments)
    assert up.finish() == 1
    assert up.output.startswith(message)
    assert up.output.count("\n") == 1
