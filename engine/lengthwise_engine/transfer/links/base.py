"""What a kind of link brings: whether it can be had between two workers, and what its ends do.

A new kind is one file with a `LinkKind` and its ends, and one entry in `kinds.py`.
"""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
import xxhash

from lengthwise_engine.errors import EngineError
from lengthwise_engine.transfer.blocks.base import Blocks, Gate
from lengthwise_engine.transfer.links.rendezvous import PairStore
from lengthwise_engine.transfer.messages import Receive, Send, Setup

Operation_contra = TypeVar("Operation_contra", contravariant=True)

Finish = Callable[[], None]
"""Returns once a message has moved. Raises when it does not within `stall_seconds`."""


class LinkUnavailable(EngineError):
    """A kind of link cannot be had between two workers, and why."""


class LinkClosed(Exception):
    """The link went down while one of its threads was busy or waited for work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A piece to send; its ends add every byte to the checksum, in wire order."""

    command: Send
    checksum: xxhash.xxh3_64 = field(default_factory=xxhash.xxh3_64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A piece to receive; its bytes enter the cache only while the gate is open."""

    command: Receive
    checksum: xxhash.xxh3_64 = field(default_factory=xxhash.xxh3_64)
    gate: Gate = field(default_factory=Gate)


class LinkEnd(Protocol[Operation_contra]):
    """One end of one link. `begin` runs on one thread and what it yields on another, so that one
    message is packed or unpacked while another one moves."""

    @property
    def path(self) -> str:
        """How the bytes go, in words for the log."""

    def begin(self, operation: Operation_contra) -> Iterator[Finish]:
        """Set the messages of one piece going, one by one; each `Finish` is called in this order.

        Waits `stall_seconds` at most, and for a buffer until the link is closed.
        """

    def receive_data(self, data: bytes) -> None:
        """What the peer sent over the connection that built the link; must not wait.

        Raises FrameError when it breaks the protocol.
        """

    def close(self) -> None:
        """Wake up what waits for a buffer or for the peer. From any thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What both ends of a link have while it is being built."""

    connection: socket.socket
    store: PairStore
    setup: Setup
    blocks: Blocks
    device: torch.device


class LinkKind(Protocol):
    """Both ends call the same kind at the same time, which agrees with its peer over the store.

    Raises LinkUnavailable at both ends when this way cannot be had, the store's errors, and
    RuntimeError when the peer does not answer in time.
    """

    def open_sender(self, handshake: Handshake) -> LinkEnd[Outgoing]: ...

    def open_receiver(self, handshake: Handshake) -> LinkEnd[Incoming]: ...
