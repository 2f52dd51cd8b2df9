"""Lets gRPC's asyncio serve many events in one pass of the event loop.

gRPC's thread writes a byte for each event, and waits while some 280 are unread; the loop handles
all events that are there, but takes one byte. So once behind, it served one event in a pass, in
the order that they came in: with 1000 small calls of one caller under way another's took 245 ms,
and 6 ms where the bytes are taken too (medians, two busy cores, grpcio 1.85).
"""

import asyncio
import socket
from typing import Any

MOST = 4_096
"""Bytes that are taken at once; fewer fit."""


def take_all_wakeups(loop: asyncio.AbstractEventLoop) -> None:
    """To be called once gRPC has begun to watch for its events in this loop."""
    selector: Any = loop._selector  # type: ignore[attr-defined]  # the only one who knows
    for key in list(selector.get_map().values()):
        reader, _ = key.data
        handle = reader and reader._callback  # gRPC's is a partial of a method
        owner = getattr(getattr(handle, "func", None), "__self__", None)
        if type(owner).__name__ == "PollerCompletionQueue":
            loop.add_reader(key.fileobj, _handle_all, key.fileobj, handle)


def _handle_all(wakeups: socket.socket, handle_events: Any) -> None:
    unread = len(wakeups.recv(MOST, socket.MSG_PEEK))
    if unread > 1:
        wakeups.recv(unread - 1)
    handle_events()  # takes the last byte
