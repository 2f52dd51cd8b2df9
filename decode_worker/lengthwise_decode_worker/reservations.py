"""Every reservation of every router, from Reserve to its end, as the event loop sees it.

The engine thread owns blocks and sequences; this table owns who waits for what: calls that wait for
blocks, arrivals that fill them, and routers whose stream is gone.

    waiting ──Granted──▶ filling ──committed──▶ decoding ──Finished──▶ (gone)
       └────────────────────┴── release, lease, failed link, lost router ──▶ (gone)
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lengthwise_decode_worker.kv.receive import Arrival, KVReceive
from lengthwise_decode_worker.messages import (
    Command,
    Commit,
    DecodeWork,
    Drained,
    Expired,
    Finished,
    Granted,
    Outcome,
    Refused,
    Release,
)
from lengthwise_decode_worker.publisher import Publisher
from lengthwise_decode_worker.stepping.rows import RouterRows
from lengthwise_policy.errors import NeverFits
from lengthwise_policy.types import RequestId
from lengthwise_wire.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LengthwiseError,
    NoWorkerAvailable,
    Overloaded,
    Stale,
)

logger = logging.getLogger(__name__)

MAX_FAILED = 4096
"""Names of failed reservations that are remembered, so that a router that has not heard of the
failure yet does not fill them again."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Held:
    work: DecodeWork
    epoch: int
    answer: asyncio.Future[Granted]
    granted: Granted | None = None
    arrival: Arrival | None = None
    decoding: bool = False
    """Nothing arrives for it (any more): it is computed here, or its KV is complete."""


class Reservations:
    """Runs on the event loop. `receive` is set right after construction: both know each other."""

    receive: KVReceive

    def __init__(
        self, *, publisher: Publisher, post: Callable[[Command], None], block_size: int
    ) -> None:
        self._publisher = publisher
        self._post = post
        self._block_size = block_size
        self._held: dict[RequestId, _Held] = {}
        self._failed: OrderedDict[RequestId, None] = OrderedDict()
        self._draining: dict[str, RequestId | asyncio.Future[None]] = {}

    def __len__(self) -> int:
        return len(self._held)

    async def reserve(self, work: DecodeWork, epoch: int) -> Granted:
        """Returns once the blocks are held. Errors: Stale, Overloaded, InvalidRequest."""
        held = self._held.get(work.request_id)
        if held is not None:
            return await self._renew(held, epoch)
        if work.request_id in self._failed:
            raise Stale(f"reservation {work.reservation} has failed; reserve under a new number")
        if not self._publisher.is_open(work.router_id):
            raise NoWorkerAvailable(f"router {work.router_id} has no Tokens stream here; open one")
        held = self._held[work.request_id] = _Held(
            work=work,
            epoch=epoch,
            answer=asyncio.get_running_loop().create_future(),
        )
        try:
            self._post(work)
            return await held.answer
        except BaseException:
            self.release(work.request_id)
            raise

    def release(self, request_id: RequestId) -> None:
        """Ends a reservation in any state; unknown ones are gone already."""
        held = self._held.pop(request_id, None)
        if held is None:
            return
        receiving = False
        if held.arrival is not None and not held.decoding:
            receiving = self.receive.stop(held.arrival)
            if receiving:
                renewing = self._draining.get(held.arrival.key)
                if isinstance(renewing, asyncio.Future):
                    _refuse(renewing, Stale("the reservation was released"))
                self._draining[held.arrival.key] = request_id
        self._post(Release(request_id=request_id, receiving=receiving))
        _refuse(held.answer, Stale("the reservation was released"))

    def cancel_router(self, router_id: str) -> None:
        """The router's stream is gone: so is everything it reserved."""
        for request_id in [r for r, h in self._held.items() if h.work.router_id == router_id]:
            self.release(request_id)

    def fail(self, request_id: RequestId, error: str) -> None:
        """Ends a reservation and tells its router why."""
        held = self._held.get(request_id)
        if held is None:
            return
        rows = RouterRows()
        rows.fail(held.work.reservation, error)
        self._publisher.publish(held.work.router_id, rows)
        self._failed[request_id] = None
        if len(self._failed) > MAX_FAILED:
            self._failed.popitem(last=False)
        _refuse(held.answer, NoWorkerAvailable(error))
        self.release(request_id)

    def fail_all(self, error: str) -> None:
        for request_id in list(self._held):
            self.fail(request_id, error)

    def on_outcomes(self, outcomes: list[Outcome]) -> None:
        """What the engine thread hands over once per step."""
        for outcome in outcomes:
            held = self._held.get(outcome.request_id)
            if held is None:
                continue
            if isinstance(outcome, Granted):
                self._on_granted(held, outcome)
            elif isinstance(outcome, Refused):
                _refuse(held.answer, _refusal(outcome))
            elif isinstance(outcome, Finished):
                del self._held[outcome.request_id]
            elif isinstance(outcome, Expired):
                _refuse(held.answer, DeadlineExceeded("the lease ran out before blocks were free"))
                self.fail(outcome.request_id, "the lease ran out")

    def on_committed(self, arrival: Arrival, first_token_id: int) -> None:
        held = self._held.get(arrival.request_id)
        if held is not None and held.arrival is arrival:
            held.decoding = True
            self._post(Commit(request_id=arrival.request_id, first_token_id=first_token_id))

    def on_failed(self, arrival: Arrival, error: str) -> None:
        held = self._held.get(arrival.request_id)
        if held is not None and held.arrival is arrival:
            held.arrival = None
            self.fail(arrival.request_id, error)

    def on_drained(self, arrival: Arrival) -> None:
        waiting = self._draining.pop(arrival.key)
        if isinstance(waiting, asyncio.Future):
            if not waiting.done():
                waiting.set_result(None)
        else:
            self._post(Drained(request_id=waiting))

    def _on_granted(self, held: _Held, granted: Granted) -> None:
        held.granted = granted
        if held.work.local:
            held.decoding = True
        else:
            self._expect(held, granted)
        if not held.answer.done():
            held.answer.set_result(granted)

    async def _renew(self, held: _Held, epoch: int) -> Granted:
        """Another prefill attempt will fill the same blocks; the older one's pieces are refused."""
        if held.decoding or held.work.local or epoch <= held.epoch:
            raise Stale(
                f"reservation {held.work.reservation}: got epoch {epoch}, it is"
                f" {'decoding' if held.decoding else f'at epoch {held.epoch}'}"
                f"{', and computes its prompt itself' if held.work.local else ''}"
            )
        held.epoch = epoch
        granted = await asyncio.shield(held.answer)
        older = held.arrival
        if older is not None and self.receive.stop(older):
            drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._draining[older.key] = drained
            await drained
        if self._held.get(held.work.request_id) is held and held.epoch == epoch:
            self._expect(held, granted)
        return granted

    def _expect(self, held: _Held, granted: Granted) -> None:
        """Only the prompt's blocks that it misses: all from the first not cached one on."""
        held.arrival = Arrival(
            request_id=held.work.request_id,
            router_id=held.work.router_id,
            reservation=held.work.reservation,
            epoch=held.epoch,
            block_ids=granted.block_ids,
            first_block=granted.num_cached_tokens // self._block_size,
        )
        self.receive.expect(held.arrival)


def _refusal(outcome: Refused) -> LengthwiseError:
    if isinstance(outcome.error, NeverFits):
        return InvalidRequest(str(outcome.error))
    return Overloaded(str(outcome.error))


def _refuse(future: asyncio.Future[Any], error: LengthwiseError) -> None:
    if not future.done():
        future.set_exception(error)
        # The call that waited may already be gone.
        future.exception()
