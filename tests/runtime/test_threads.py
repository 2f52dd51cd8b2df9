"""The mailbox is bounded and ordered; the engine thread never dies in silence."""

import subprocess
import sys
import threading

import pytest

from lengthwise_runtime.mailbox import Mailbox
from lengthwise_runtime.step_thread import EXIT_CODE, SWITCH_SECONDS, StepThread
from lengthwise_wire.errors import Overloaded


def test_commands_come_out_in_the_order_they_went_in() -> None:
    mailbox: Mailbox[int] = Mailbox(limit=100)
    for number in range(100):
        mailbox.post(number)
    assert mailbox.drain(0) == list(range(100))
    assert mailbox.drain(0) == []


def test_a_full_mailbox_refuses_and_loses_nothing() -> None:
    mailbox: Mailbox[int] = Mailbox(limit=2)
    mailbox.post(1)
    mailbox.post(2)
    with pytest.raises(Overloaded, match="2 commands wait"):
        mailbox.post(3)
    assert mailbox.drain(0) == [1, 2]


def test_a_post_wakes_a_waiting_drain() -> None:
    mailbox: Mailbox[str] = Mailbox(limit=1)
    got: list[str] = []
    thread = threading.Thread(target=lambda: got.extend(mailbox.drain(10)))
    thread.start()
    mailbox.post("now")
    thread.join(5)
    assert got == ["now"]


def test_a_step_that_raises_is_reported_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    dead = threading.Event()
    reasons: list[BaseException] = []

    def step() -> None:
        raise ValueError("broken device")

    def on_death(error: BaseException) -> None:
        reasons.append(error)
        dead.set()

    StepThread(step, on_death).start()
    assert dead.wait(5)
    assert str(reasons[0]) == "broken device"
    assert "broken device" in caplog.text


def test_a_dead_engine_ends_its_process() -> None:
    program = (
        "import threading\n"
        "from lengthwise_runtime.step_thread import StepThread\n"
        "def step(): raise ValueError('broken device')\n"
        "StepThread(step).start()\n"
        "threading.Event().wait(30)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False
    )
    assert result.returncode == EXIT_CODE
    assert "broken device" in result.stderr


def test_a_thread_begins_once_and_when_stopped_ends_after_its_step() -> None:
    steps: list[int] = []
    began_in: list[str] = []
    ran = threading.Event()

    def step() -> None:
        steps.append(1)
        ran.set()

    thread = StepThread(step, begin=lambda: began_in.append(threading.current_thread().name))
    thread.start()
    assert ran.wait(5)
    assert thread.stop(5)
    count = len(steps)
    assert not threading.Event().wait(0.05)
    assert len(steps) == count
    assert began_in == ["engine"]


def test_the_engine_thread_gets_the_interpreter_back_soon() -> None:
    before, seen = sys.getswitchinterval(), threading.Event()
    thread = StepThread(seen.set)
    try:
        thread.start()
        assert seen.wait(10)
        assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS, abs=1e-5)
    finally:
        assert thread.stop(10)
        sys.setswitchinterval(before)
