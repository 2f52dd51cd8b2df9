"""Real services in virtual time: an event loop whose clock jumps to what happens next, and engine
threads that run while it stands still, one at a time, so that equal input gives equal runs."""

import asyncio
import heapq
import math
import selectors
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from lengthwise_engine.runner.base import ModelRunner, PendingStep, SequenceChunk
from lengthwise_engine.runner.sampler import SampledToken

T = TypeVar("T")
STUCK_SECONDS = 20.0


class VirtualClock:
    """In the place of `time.monotonic`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise RuntimeError("nothing is left to happen, and something waits for it")
        self._clock.now += max(timeout, 0.0)
        return []


class _OrderedTimer(asyncio.TimerHandle):
    """Equal instants in the order in which they were asked for."""

    number = 0

    def __lt__(self, other: object) -> bool:
        assert isinstance(other, _OrderedTimer)
        return (self.when(), self.number) < (other.when(), other.number)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only while all wait."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(_JumpingSelector(clock))
        self._num_timers = 0
        self.time = clock  # type: ignore[method-assign]

    def call_at(  # type: ignore[override]  # as the base class does it, which orders by `when` alone
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        self._num_timers += 1
        timer = _OrderedTimer(when, callback, args, self, context)
        timer.number = self._num_timers
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    @property
    def _clock_resolution(self) -> float:
        """So that a timer runs at its instant and not before."""
        return math.ulp(self.time())

    @_clock_resolution.setter
    def _clock_resolution(self, _: float) -> None:
        """The base class knows that of a real clock."""


class VirtualStepThread:
    """In the place of `StepThread`: runs while the loop stands still, until it waits."""

    current: "VirtualStepThread"

    def __init__(self, step: Callable[[], None], **_: Any) -> None:
        self._step = step
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.step_ends_at = 0.0

    def start(self) -> None:
        self._thread.start()
        self._loop.call_soon(self._resume)

    def stop(self, timeout_seconds: float) -> bool:
        self._ended = True
        if self._timer is not None:
            self.wake()
        return True

    @property
    def now(self) -> float:
        return self._loop.time()

    def wait(self, until: float) -> None:
        """On this thread: time passes, up to then or until `wake` is called."""
        self._timer = self._loop.call_at(until, self._resume)
        self._back.release()
        if not self._go.acquire(timeout=STUCK_SECONDS):
            raise RuntimeError("the loop has ended before the engine")
        if self._ended:
            raise SystemExit

    def wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._timer = None
        if not self._thread.is_alive():
            return
        VirtualStepThread.current = self
        self._go.release()
        if not self._back.acquire(timeout=STUCK_SECONDS):
            raise RuntimeError("an engine does not come to its end")
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        self._go.acquire()
        try:
            while not self._ended:
                self._step()
        except SystemExit:  # it was told to end
            pass
        except BaseException as error:
            self._failure = error
        self._back.release()


class VirtualMailbox(list[T]):
    """In the place of `Mailbox`."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._waiting: VirtualStepThread | None = None

    def post(self, item: T) -> None:
        self.append(item)
        if self._waiting is not None:
            self._waiting.wake()

    def drain(self, timeout_seconds: float) -> list[T]:
        thread = VirtualStepThread.current
        until = thread.now + timeout_seconds
        if thread.step_ends_at > thread.now:  # a step that is looked at is seen to end at once
            until = min(until, thread.step_ends_at)
        if not self and timeout_seconds > 0:
            self._waiting = thread
            thread.wait(until)
            self._waiting = None
        items = list(self)
        self.clear()
        return items


class _TimedStep:
    """A `PendingStep` that ends at its time."""

    def __init__(self, ends_at: float, tokens: list[SampledToken | None]) -> None:
        self._thread = VirtualStepThread.current
        self._thread.step_ends_at = ends_at
        self._ends_at = ends_at
        self._tokens = tokens

    @property
    def is_ready(self) -> bool:
        return self._thread.now >= self._ends_at

    def tokens(self) -> list[SampledToken | None]:
        if not self.is_ready:
            self._thread.wait(self._ends_at)
        return self._tokens


class TimedRunner:
    """A runner whose steps take what they are said to."""

    runs_ahead = False

    def __init__(
        self, runner: ModelRunner, seconds: Callable[[Sequence[SequenceChunk]], float]
    ) -> None:
        self._runner = runner
        self._seconds = seconds
        self.layout = runner.layout

    def launch(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> PendingStep:
        now = VirtualStepThread.current.now
        return _TimedStep(now + self._seconds(chunks), self._runner.launch(chunks).tokens())

    def run(
        self, chunks: Sequence[SequenceChunk], on_layer: Callable[[int], None] | None = None
    ) -> list[SampledToken | None]:
        tokens = self.launch(chunks).tokens()
        for layer in range(self.layout.num_layers if on_layer is not None else 0):
            assert on_layer is not None
            on_layer(layer)
        return tokens
