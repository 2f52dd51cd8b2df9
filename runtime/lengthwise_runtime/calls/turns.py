"""Which call is begun next where more come than the event loop keeps up with: connections take
turns, so that a call waits for one of each other connection and not for all that came before it."""

import asyncio
from collections import deque

Waiting = deque["asyncio.Future[None]"]


class Turns:
    """Begins one call in each pass of the event loop. A call takes some passes, so that as many run
    side by side, and what is begun is ended before much else is begun."""

    def __init__(self) -> None:
        self._waiting: dict[str, Waiting] = {}  # by peer; whose turn is next comes first
        self._has_begun = False  # a call, in this pass

    async def wait(self, peer: str) -> None:
        """Until it is the turn of this connection's call; at once where no other waits."""
        if not self._has_begun:
            self._begin()
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(peer, deque()).append(turn)
        await turn

    def _begin(self) -> None:
        self._has_begun = True
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._has_begun = False
        while self._waiting and not self._has_begun:
            peer = next(iter(self._waiting))
            turns = self._waiting.pop(peer)
            turn = turns.popleft()
            if turns:
                self._waiting[peer] = turns
            if not turn.done():  # its caller has not gone
                turn.set_result(None)
                self._begin()
