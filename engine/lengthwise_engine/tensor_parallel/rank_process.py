"""Rank 0's handle on the process of another rank: how it starts, is sent steps, and dies.

Every wait is bounded, and a process that outlived its use is killed.
"""

import os
import socket
import subprocess
import threading
import time
from typing import Final

import msgspec
import torch

from lengthwise_engine.errors import RankError
from lengthwise_engine.forks.server import start_process
from lengthwise_engine.kv.cache import SharedKV
from lengthwise_engine.tensor_parallel.rank import RankPlan
from lengthwise_engine.tensor_parallel.steps import pack_adapter
from lengthwise_engine.transfer.frames import Framed, FrameReader

_READ_BYTES: Final = 2**16
_DEATH_SECONDS: Final = 5.0
_LAST_WORDS_SECONDS: Final = 1.0


class RankReady(Framed, frozen=True, kw_only=True):
    """The rank has its weights and its cache, which is shared like this."""

    kv: SharedKV


class RankFailed(Framed, frozen=True, kw_only=True):
    """The rank cannot be."""

    reason: str


_OUTCOME: Final[msgspec.json.Decoder[RankReady | RankFailed]] = msgspec.json.Decoder(
    RankReady | RankFailed
)


class RankProcess:
    def __init__(self, plan: RankPlan, rendezvous: int, kv: int | None) -> None:
        """Start the process of `plan.rank`.

        It inherits `rendezvous`, see `RankGroup`, and the file descriptor `kv` of its cache if this
        process made that. Raises `RankError`.
        """
        self.rank = plan.rank
        self._stall_seconds = plan.stall_seconds
        self._sending = threading.Lock()
        self.socket, theirs = socket.socketpair()
        inherited = [theirs.fileno(), rendezvous] + ([] if kv is None else [kv])
        try:
            self._process = start_process(
                "lengthwise_engine.tensor_parallel.rank_main",
                [msgspec.json.encode(plan).decode(), *map(str, inherited)],
                inherited=inherited,
                env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
            )
        except OSError as error:
            self.socket.close()
            raise RankError(f"rank {plan.rank} cannot be started: {error}") from error
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, deadline: float) -> SharedKV:
        """How the rank shares its cache; raises `RankError` when it fails or is not ready then."""
        reader = FrameReader(_OUTCOME)
        while True:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self.socket.recv(_READ_BYTES)
            except TimeoutError:
                raise RankError(f"rank {self.rank} was not ready in time") from None
            except ConnectionResetError:
                data = b""
            if not data:
                raise RankError(f"rank {self.rank} died while it loaded ({self.last_words()})")
            for outcome in reader.feed(data):
                if isinstance(outcome, RankFailed):
                    raise RankError(f"rank {self.rank} could not start: {outcome.reason}")
                return outcome.kv

    def send(self, message: bytes, seconds: float) -> None:
        """Raises OSError when the process is dead, or does not read for so long. Adapters come from
        another thread than steps."""
        with self._sending:
            self.socket.settimeout(seconds)
            self.socket.sendall(message)

    def store(self, number: int, layer: int, numbers: torch.Tensor) -> None:
        """As `AdapterStack.store`: before it computes whatever is sent later. Errors: OSError."""
        self.send(pack_adapter(number, layer, numbers), self._stall_seconds)

    def last_words(self) -> str:
        """Of a process that hung up: how it ended."""
        try:
            return f"exit status {self._process.wait(_LAST_WORDS_SECONDS)}"
        except subprocess.TimeoutExpired:
            return "it has not ended"

    def kill(self) -> None:
        """Returns at once; `close` waits for the death."""
        self._process.kill()

    def close(self) -> None:
        """On return the process is dead and maps nothing any more."""
        self.kill()
        self._process.wait(_DEATH_SECONDS)
        self.socket.close()
