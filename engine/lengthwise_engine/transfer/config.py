"""How a worker's transfer process serves, as one value."""

from dataclasses import dataclass
from typing import Literal

from lengthwise_engine.errors import EngineError


class TransferStartError(EngineError):
    """The transfer process does not run: it could not be started, or its thread has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferConfig:
    """`listen_port` 0 takes any free port; `advertise_host` is what peers are told (None: the
    `listen_host`), an address of this machine that they reach.

    A link is up within `connect_seconds` of being asked for, or goes down; it goes down when a
    message does not move for `stall_seconds`. `start_seconds` bounds each start of the process.

    `shared_memory` False: bytes take the network between workers of one machine too, to measure or
    test that path.
    """

    backend: Literal["gloo", "nccl"] = "gloo"
    listen_host: str = "127.0.0.1"
    listen_port: int = 0
    advertise_host: str | None = None
    stall_seconds: float = 5.0
    connect_seconds: float = 5.0
    start_seconds: float = 60.0
    shared_memory: bool = True
