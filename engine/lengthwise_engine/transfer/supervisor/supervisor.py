"""The worker's end of its transfer process: `KVSender` and `KVReceiver` in one object.

Calls come from any thread and never wait. One thread here starts the process, delivers what it
reports in order, and kills and restarts it when it stalls. The rendezvous is a socket of the
worker's that every run of the process inherits: its address holds for the worker's whole life.
"""

import logging
import selectors
import signal
import threading
import time
from collections import deque
from typing import Final, Literal

from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.transfer.base import (
    Discarded,
    LinkDown,
    OnEvent,
    Piece,
    ProcessLost,
    ProcessReady,
    TransferEvent,
    check_piece,
    check_receive,
)
from lengthwise_engine.transfer.config import TransferConfig, TransferStartError
from lengthwise_engine.transfer.frames import FrameError, frame
from lengthwise_engine.transfer.messages import (
    Accept,
    Close,
    Command,
    Connect,
    Discard,
    Ping,
    Pong,
    Progress,
    Ready,
    Receive,
    Report,
    Send,
)
from lengthwise_engine.transfer.supervisor.child_handle import ChildHandle
from lengthwise_engine.transfer.supervisor.outstanding_ops import MARGIN_SECONDS, OutstandingOps
from lengthwise_engine.waker import Waker

_log = logging.getLogger(__name__)

_TICK_SECONDS: Final = 0.25
_PAUSE_STEP_SECONDS: Final = 0.02
_STOP_SECONDS: Final = 2.0
_FIRST_BACKOFF_SECONDS: Final = 0.1
_LAST_BACKOFF_SECONDS: Final = 5.0
_SOUND_SECONDS: Final = 30.0  # after a process that served so long the back-off starts anew


class TransferProcess:
    """`start()` returns at once, so that a model can be loaded meanwhile; then `wait_ready()`."""

    def __init__(self, shards: KVShards, config: TransferConfig, on_event: OnEvent) -> None:
        """`on_event` is called from one thread, in order, and must not block for long.

        Raises ValueError when the backend cannot move these caches, OSError when the address cannot
        be listened on.
        """
        config.check_device(shards.device_type)
        self._shards = shards
        self._config = config
        self._on_event = on_event
        self._listener = config.listen()
        self._outstanding = OutstandingOps(
            stall_seconds=config.stall_seconds, connect_seconds=config.connect_seconds
        )
        self._lock = threading.Lock()
        self._child: ChildHandle | None = None
        self._answers: deque[TransferEvent] = deque()  # to what was asked while no process ran
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._waker = Waker()
        self._thread = threading.Thread(target=self._supervise, name="kv transfer", daemon=True)

    @property
    def rendezvous(self) -> str:
        return self._config.advertised(self._listener.getsockname()[1])

    @property
    def failure(self) -> BaseException | None:
        """Why there will be no transfer process any more; None while there is or will be one."""
        return self._failure

    @property
    def pid(self) -> int | None:
        """The running transfer process, if one is running."""
        with self._lock:
            return None if self._child is None else self._child.pid

    @property
    def is_up(self) -> bool:
        """Whether KV can be moved now."""
        return self._child is not None

    @property
    def num_links(self) -> int:
        """Links that may still use the cache: until down, which takes `stall_seconds` or so."""
        with self._lock:
            return self._outstanding.num_links

    def start(self) -> None:
        self._thread.start()

    def wait_ready(self) -> None:
        """Raises TransferStartError when the first start failed or took too long."""
        is_decided = self._ready.wait(self._config.start_seconds + 2 * MARGIN_SECONDS)
        self._check()
        if not is_decided:
            raise TransferStartError("the transfer process was killed again and again")

    def stop(self) -> None:
        """End the process and the thread within a few seconds; no event is delivered afterwards."""
        self._stopping.set()
        self._waker.wake()
        if self._thread.ident is not None:
            self._thread.join(2 * _STOP_SECONDS)
        self._listener.close()
        self._waker.close()

    def connect(self, link: str, rendezvous: str) -> None:
        self._open(Connect(link=link, rendezvous=rendezvous), "send")

    def accept(self, link: str) -> None:
        self._open(Accept(link=link), "receive")

    def send(self, link: str, sequence: int, piece: Piece) -> None:
        check_piece(piece, self._shards.layout, self._shards.num_blocks)
        with self._lock:
            if self._outstanding.issue(link, "send", sequence, time.monotonic()):
                self._write(Send(link=link, sequence=sequence, piece=piece))

    def receive(
        self, link: str, sequence: int, key: str, piece: Piece | None, num_bytes: int
    ) -> None:
        check_receive(piece, num_bytes, self._shards.layout, self._shards.num_blocks)
        with self._lock:
            if self._outstanding.issue(link, "receive", sequence, time.monotonic()):
                self._write(
                    Receive(link=link, sequence=sequence, key=key, piece=piece, num_bytes=num_bytes)
                )

    def discard(self, key: str) -> None:
        self._check()
        with self._lock:
            if self._child is None:
                self._answer(Discarded(key=key))
                return
            self._outstanding.discard(key, time.monotonic())
            self._write(Discard(key=key))

    def close(self, link: str) -> None:
        with self._lock:
            if self._outstanding.close(link, time.monotonic()):
                self._write(Close(link=link))

    def _open(self, command: Connect | Accept, direction: Literal["send", "receive"]) -> None:
        self._check()
        with self._lock:
            if self._child is None:
                self._answer(LinkDown(link=command.link, reason="no transfer process is running"))
                return
            self._outstanding.open(command.link, direction, time.monotonic())
            self._write(command)

    def _check(self) -> None:
        if (failure := self._failure) is not None:
            raise TransferStartError(f"the transfer process does not run: {failure}") from failure

    def _answer(self, event: TransferEvent) -> None:
        """Without a process the answer is known at once; its delivery is the thread's."""
        self._answers.append(event)
        self._waker.wake()

    def _write(self, command: Command) -> None:
        assert self._child is not None  # links are open only while there is one
        self._child.write(frame(command))
        if self._child.wants_to_write:
            self._waker.wake()

    def _supervise(self) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        try:
            while not self._stopping.is_set():
                started_at = time.monotonic()
                self._run_once()
                if time.monotonic() - started_at > _SOUND_SECONDS:
                    backoff = _FIRST_BACKOFF_SECONDS
                self._pause(backoff)
                backoff = min(2 * backoff, _LAST_BACKOFF_SECONDS)
        except BaseException as error:
            # on_event failed, or the very first start: no event would be delivered any more.
            _log.exception("KV transfer has ended")
            self._failure = error
        finally:
            self._ready.set()

    def _run_once(self) -> None:
        """One life of the process: from its start to its death, or to `stop`."""
        try:
            child = ChildHandle(self._config.setup(self._shards, self._listener))
        except OSError as error:
            self._lost(f"it cannot be started: {error}")
            return
        try:
            reason = self._serve(child)
            if self._stopping.is_set():
                child.leave(_STOP_SECONDS)
        finally:
            status = child.kill()
            with self._lock:
                self._child = None
                self._outstanding.clear()
        if not self._stopping.is_set():
            was_killed = reason == "it died" and status == -signal.SIGKILL
            self._lost(f"{reason} (exit status {status})", may_pass=was_killed)

    def _lost(self, reason: str, *, may_pass: bool = False) -> None:
        """The process is lost. Raises TransferStartError when none was ever ready, nor may be."""
        if not (may_pass or self._ready.is_set()):
            raise TransferStartError(f"the transfer process did not start: {reason}")
        _log.error("transfer process lost: %s", reason)
        self._on_event(ProcessLost(reason=reason))

    def _serve(self, child: ChildHandle) -> str:
        """Deliver what the process reports until it is lost; why it was."""
        deadline = time.monotonic() + self._config.start_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._waker.readable, selectors.EVENT_READ)
            selector.register(child.socket, selectors.EVENT_READ)
            while not self._stopping.is_set():
                with self._lock:
                    if self._child is not None and self._outstanding.turn(time.monotonic()):
                        child.write(frame(Ping()))
                wants = selectors.EVENT_WRITE if child.wants_to_write else 0
                selector.modify(child.socket, selectors.EVENT_READ | wants)
                readable = [key.fileobj for key, _ in selector.select(_TICK_SECONDS)]
                self._waker.clear()
                self._deliver_answers()
                if child.socket not in readable:
                    # Only now: unread reports may be the very answers that are missed.
                    reason = self._overdue(deadline)
                elif (reason := self._read(child)) is None:
                    with self._lock:
                        child.flush()
                if reason is not None:
                    return reason
        return "stopped"

    def _read(self, child: ChildHandle) -> str | None:
        """Why the process is lost, if it is."""
        try:
            for report in child.read():
                self._receive(report, child)
        except EOFError:
            return "it died"
        except FrameError as error:
            return str(error)
        return None

    def _receive(self, report: Report, child: ChildHandle) -> None:
        if isinstance(report, Ready):
            with self._lock:
                self._child = child
            self._ready.set()
            self._on_event(ProcessReady())
            return
        with self._lock:
            self._outstanding.settle(report, time.monotonic())
        if not isinstance(report, Progress | Pong):
            self._on_event(report)

    def _overdue(self, ready_deadline: float) -> str | None:
        """Why the process counts as lost, if it does."""
        now = time.monotonic()
        with self._lock:
            if self._child is None and now > ready_deadline:
                return f"it was not ready within {self._config.start_seconds:g} s"
            overdue = self._outstanding.overdue(now)
        return None if overdue is None else f"it stalled: {overdue}"

    def _pause(self, seconds: float) -> None:
        """Before the next start; what is asked meanwhile is answered."""
        deadline = time.monotonic() + seconds
        while not self._stopping.is_set() and time.monotonic() < deadline:
            self._deliver_answers()
            self._stopping.wait(_PAUSE_STEP_SECONDS)

    def _deliver_answers(self) -> None:
        while self._answers:
            self._on_event(self._answers.popleft())
