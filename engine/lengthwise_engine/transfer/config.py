"""How a worker's transfer process serves, as one value."""

import socket
from dataclasses import dataclass
from typing import Literal

from lengthwise_engine.errors import EngineError
from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.transfer.messages import Setup


class TransferStartError(EngineError):
    """The transfer process does not run: it could not be started, or its thread has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferConfig:
    """`listen_port` 0 takes any free port; `advertise_host` is an address of this machine that
    peers reach (None: the `listen_host`).

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

    def check_device(self, device_type: str) -> None:
        """Raises ValueError when the backend cannot move caches on such a device."""
        if (self.backend == "nccl") != (device_type == "cuda"):
            raise ValueError(
                f"backend {self.backend!r} cannot move a KV cache on {device_type};"
                " use 'nccl' for CUDA and 'gloo' for the CPU"
            )

    def listen(self) -> socket.socket:
        """Raises OSError when the address cannot be listened on."""
        family = socket.AF_INET6 if ":" in self.listen_host else socket.AF_INET
        return socket.create_server((self.listen_host, self.listen_port), family=family)

    def advertised(self, port: int) -> str:
        """host:port where peers reach the listener."""
        host = self.advertise_host or self.listen_host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def setup(self, shards: KVShards, listener: socket.socket) -> Setup:
        """For a process that serves these caches, and takes links at this listener."""
        return Setup(
            shards=shards,
            listen_file_descriptor=listener.fileno(),
            backend=self.backend,
            stall_seconds=self.stall_seconds,
            connect_seconds=self.connect_seconds,
            shared_memory=self.shared_memory,
        )
