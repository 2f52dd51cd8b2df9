"""Two ends of KV transfer, what they reported, and pieces to move between them."""

import itertools
import random
import threading
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from harness.workers import fork_children

from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.kv.shards import KVShards
from lengthwise_engine.transfer.base import (
    KVReceiver,
    KVSender,
    LinkUp,
    Piece,
    TransferEvent,
)
from lengthwise_engine.transfer.config import TransferConfig
from lengthwise_engine.transfer.supervisor.supervisor import TransferProcess

# 12,288 bytes a block: no divisor of the message size, so that messages end at odd places.
LAYOUT = KVLayout(num_layers=3, num_kv_heads=8, head_dim=24, block_size=16, dtype="bfloat16")
NUM_BLOCKS = 400
STALL_SECONDS = 1.0
CONNECT_SECONDS = 2.0

Event = TypeVar("Event", bound=TransferEvent)
_names = (f"link-{number}" for number in itertools.count())


class Transfer(KVSender, KVReceiver, Protocol):
    """Both roles in one."""


@dataclass
class End:
    """A transfer, the cache it moves, and all it reported."""

    cache: KVCache
    events: list[TransferEvent] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    transfer: Any = None

    def hear(self, event: TransferEvent) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def wait(
        self,
        kind: type[Event],
        seconds: float = 10.0,
        start: int = 0,
        **expected: object,
    ) -> Event:
        """The first event from `start` on of this kind and with these fields."""

        def found() -> Event | None:
            for event in self.events[start:]:
                if isinstance(event, kind) and all(
                    getattr(event, name) == value for name, value in expected.items()
                ):
                    return event
            return None

        with self.changed:
            self.changed.wait_for(lambda: found() is not None, seconds)
            event = found()
        assert event is not None, f"no {kind.__name__} {expected} in {seconds} s: {self.events}"
        return event

    def about(self, link: str) -> list[TransferEvent]:
        return [event for event in self.events if getattr(event, "link", None) == link]


@dataclass
class Ends:
    sender: End
    receiver: End

    def link(self, *, backwards: bool = False) -> str:
        """A new link that is up; `backwards` from the receiver's end to the sender's."""
        name = next(_names)
        one, other = (self.receiver, self.sender) if backwards else (self.sender, self.receiver)
        one.transfer.connect(name, other.transfer.rendezvous)
        other.transfer.accept(name)
        one.wait(LinkUp, link=name)
        other.wait(LinkUp, link=name)
        return name


def new_name() -> str:
    return next(_names)


def new_cache(seed: int, layout: KVLayout = LAYOUT, num_blocks: int = NUM_BLOCKS) -> KVCache:
    """Different bytes in every block."""
    cache = KVCache.allocate(layout, num_blocks, torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    flat = cache.tensor.view(torch.uint8).flatten()
    flat.random_(0, 256, generator=generator)
    return cache


def random_piece(seed: int, num_blocks: int, *, first_layer: int = 0, num_layers: int = 3) -> Piece:
    ids = random.Random(seed).sample(range(NUM_BLOCKS), num_blocks)
    return Piece(first_layer=first_layer, num_layers=num_layers, block_ids=tuple(ids))


def content(cache: KVCache, piece: Piece) -> torch.Tensor:
    """A copy of the piece's bytes, [layer, block, byte]."""
    layers = slice(piece.first_layer, piece.first_layer + piece.num_layers)
    return cache.tensor[layers, list(piece.block_ids)].flatten(2).view(torch.uint8)


def start_processes(config: TransferConfig, *ends: End) -> None:
    fork_children()
    for end in ends:
        end.transfer = TransferProcess(KVShards.of(end.cache), config, end.hear)
        end.transfer.start()
    for end in ends:
        end.transfer.wait_ready()
