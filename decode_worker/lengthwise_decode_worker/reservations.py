"""Every reservation of every router, from Reserve to its end, as the event loop sees it.

The engine thread owns blocks and sequences; this table owns what waits for them: calls for blocks,
arrivals that fill them, and the streams of routers.

    waiting ───Grant───▶ filling ──committed──▶ decoding ──Finished──▶ (gone)
       └────────────────────┴── release, lease, failed link, lost router ──▶ (gone)
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from lengthwise_decode_worker.kv.arrival import Arrival
from lengthwise_decode_worker.kv.receive import KVReceive
from lengthwise_decode_worker.messages import (
    Command,
    Commit,
    DecodeWork,
    Drained,
    Finished,
    Outcome,
    ReleaseReceiving,
)
from lengthwise_decode_worker.publisher import Publisher
from lengthwise_decode_worker.reservation_span import ReservationSpan
from lengthwise_decode_worker.stepping.rows import RouterRows
from lengthwise_policy.decode.request import Grant
from lengthwise_policy.types import RequestId
from lengthwise_wire.errors import DeadlineExceeded, NoWorkerAvailable, Overloaded, Stale
from lengthwise_worker.messages import Release, RequestExpired, RequestRefused
from lengthwise_worker.requests import refuse

MAX_ENDED = 4096
"""Names of reservations that are remembered after their end: one that a router fills again without
having heard of it, or whose release has overtaken it, would be taken for another of its name, whose
blocks may be on their way back still."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Held:
    work: DecodeWork
    epoch: int
    answer: asyncio.Future[Grant]
    span: ReservationSpan | None
    arrival: Arrival | None = None
    decoding: bool = False
    """Nothing arrives for it (any more): it is computed here, or its KV is complete."""


class Reservations:
    """Runs on the event loop."""

    def __init__(
        self,
        *,
        receive: KVReceive,
        publisher: Publisher,
        post: Callable[[Command], None],
        block_size: int,
        max_per_router: int,
    ) -> None:
        self._receive = receive
        self._publisher = publisher
        self._post = post
        self._block_size = block_size
        self._max_per_router = max_per_router
        self._by_router: Counter[str] = Counter()
        self._held: dict[RequestId, _Held] = {}
        self._ended: OrderedDict[RequestId, None] = OrderedDict()
        self._draining: dict[str, RequestId | asyncio.Future[None]] = {}

    def __len__(self) -> int:
        return len(self._held)

    async def reserve(
        self, work: DecodeWork, epoch: int, span: ReservationSpan | None = None
    ) -> Grant:
        """Returns once the blocks are held. `span`: of a request that is traced.

        Errors: Stale, Overloaded, InvalidRequest.
        """
        held = self._held.get(work.request_id)
        if held is not None:
            return await self._renew(held, epoch)
        if work.request_id in self._ended:
            raise Stale(f"reservation {work.number} has ended; reserve under a new number")
        if not self._publisher.is_open(work.router_id):
            raise NoWorkerAvailable(f"router {work.router_id} has no Tokens stream here; open one")
        if self._by_router[work.router_id] >= self._max_per_router:
            raise Overloaded(
                f"router {work.router_id} holds {self._max_per_router} reservations here, which is"
                " all that one router may"
            )
        self._by_router[work.router_id] += 1
        held = self._held[work.request_id] = _Held(
            work=work, epoch=epoch, span=span, answer=asyncio.get_running_loop().create_future()
        )
        try:
            self._post(work)
            return await held.answer
        except BaseException:
            self.release(work.request_id)
            raise

    def release(self, request_id: RequestId) -> None:
        """Ends a reservation in any state; unknown ones are gone already, or are yet to come, and
        are refused then."""
        held = self._forget(request_id)
        if held is None:
            return
        arrival = None if held.decoding else held.arrival
        if arrival is not None and self._receive.stop(arrival):
            renewing = self._draining.get(arrival.key)
            if isinstance(renewing, asyncio.Future):
                refuse(renewing, Stale("the reservation was released"))
            self._draining[arrival.key] = request_id
            self._post(ReleaseReceiving(request_id=request_id))
        else:
            self._post(Release(request_id=request_id))
        refuse(held.answer, Stale("the reservation was released"))

    def cancel_router(self, router_id: str) -> None:
        """The router's stream is gone: so is everything it reserved."""
        for request_id in [r for r, h in self._held.items() if h.work.router_id == router_id]:
            self.release(request_id)

    def fail(self, request_id: RequestId, error: str) -> None:
        """Ends a reservation and reports the error to its router."""
        held = self._held.get(request_id)
        if held is None:
            return
        rows = RouterRows()
        rows.fail(held.work.number, error)
        self._publisher.publish(held.work.router_id, rows)
        refuse(held.answer, NoWorkerAvailable(error))
        if held.span is not None:
            held.span.failed(error)
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
            if isinstance(outcome, Grant):
                self._on_granted(held, outcome)
            elif isinstance(outcome, RequestRefused):
                refuse(held.answer, outcome.as_error())
            elif isinstance(outcome, Finished):
                self._forget(outcome.request_id, finished=True)
            elif isinstance(outcome, RequestExpired):
                refuse(held.answer, DeadlineExceeded("the lease ran out before blocks were free"))
                self.fail(outcome.request_id, "the lease ran out")

    def on_committed(self, arrival: Arrival, first_token_id: int) -> None:
        held = self._held.get(arrival.request_id)
        if held is not None and held.arrival is arrival:
            held.decoding = True
            if held.span is not None:
                held.span.committed()
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

    def _forget(self, request_id: RequestId, *, finished: bool = False) -> _Held | None:
        self._ended[request_id] = None
        if len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)
        held = self._held.pop(request_id, None)
        if held is not None:
            if held.span is not None:
                held.span.end(held.work, finished=finished)
            router_id = held.work.router_id
            self._by_router[router_id] -= 1
            if not self._by_router[router_id]:
                del self._by_router[router_id]
        return held

    def _on_granted(self, held: _Held, grant: Grant) -> None:
        if held.span is not None:
            held.span.granted(local=held.work.reservation.local)
        if held.work.reservation.local:
            held.decoding = True
        else:
            self._expect(held, grant)
        if not held.answer.done():
            held.answer.set_result(grant)

    async def _renew(self, held: _Held, epoch: int) -> Grant:
        """Another prefill attempt will fill the same blocks; the older one's pieces are refused."""
        if held.decoding or held.work.reservation.local or epoch <= held.epoch:
            raise Stale(
                f"reservation {held.work.number}: got epoch {epoch}, it is"
                f" {'decoding' if held.decoding else f'at epoch {held.epoch}'}"
                f"{', and computes its prompt itself' if held.work.reservation.local else ''}"
            )
        held.epoch = epoch
        grant = await asyncio.shield(held.answer)
        older = held.arrival
        if older is not None and self._receive.stop(older):
            drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._draining[older.key] = drained
            await drained
        if self._held.get(held.work.request_id) is held and held.epoch == epoch:
            self._expect(held, grant)
        return grant

    def _expect(self, held: _Held, grant: Grant) -> None:
        """Only the prompt's blocks that it misses: all from the first not cached one on."""
        held.arrival = Arrival(
            request_id=held.work.request_id,
            router_id=held.work.router_id,
            reservation=held.work.number,
            epoch=held.epoch,
            block_ids=grant.block_ids,
            first_block=grant.num_cached_tokens // self._block_size,
            listener=self,
        )
        self._receive.expect(held.arrival)
