"""What the routers of a deployment told, as tables that fit the terminal."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TypeVar

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from lengthwise.status import LatencyHistogram, RouterStatus, WorkerState
from lengthwise_cli.status.rates import Rates
from lengthwise_cli.terminal import Column, fit_encoding, fitted, harmless

T = TypeVar("T")

WINDOW_SECONDS = 60.0
"""Latencies on a terminal are those of the last minute."""

Statuses = dict[str, RouterStatus | str]
"""By endpoint: what its router says, or why it says nothing."""

Key = tuple[str, str, str]
"""(model, measure, length class)"""

MODEL = Column("model", is_number=False, rank=1)
"""Of tables, where several models are served."""

ROUTER = (
    Column("router", is_number=False),
    Column("model", is_number=False, rank=2),
    Column("state", is_number=False),
    Column("in flight", rank=1),
    Column("waiting", rank=1),
    Column("up", rank=3),
)
LATENCY = (
    Column("length class", is_number=False),
    Column("requests", rank=3),
    Column("TTFT p50"),
    Column("p90", rank=2),
    Column("p99"),
    Column("TPOT p50", rank=1),
    Column("p90", rank=2),
    Column("p99", rank=1),
)
WORKER = (
    Column("worker", is_number=False),
    Column("address", is_number=False, rank=4),
    Column("state", is_number=False),
    Column("running", rank=1),
    Column("short", rank=2),
    Column("long", rank=2),
    Column("blocks used", rank=3),
    Column("tokens/s", rank=1),
)
STYLES = {"ready": "green", "draining": "yellow", "connecting": "yellow", "starting": "yellow"}


class StatusView:
    """Looks are taken one after the other; rates and latencies are of what changed between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rates = Rates()
        self._statuses: Statuses = {}
        self._looks: deque[tuple[float, Statuses]] = deque()

    def take(self, statuses: Statuses) -> None:
        now = time.monotonic()
        self._statuses = statuses
        self._looks.append((now, statuses))
        while len(self._looks) > 1 and now - self._looks[0][0] > WINDOW_SECONDS:
            self._looks.popleft()
        for worker in self._workers():
            prefills = worker.role == "prefill"
            tokens = worker.prompt_tokens_total if prefills else worker.output_tokens_total
            self._rates.count(worker.worker_id, tokens, now)

    def draw(self, *, since_start: bool = False) -> Group:
        """`since_start`: latencies are those of all requests of the routers' lives."""
        before: Mapping[str, RouterStatus | str] = {} if since_start else self._looks[0][1]
        since = "since the routers' start" if since_start else "in the last minute"
        blank = Text()
        return Group(
            self._routers(), blank,
            Text(f"{since}, ms", style="dim"), self._latencies(before), blank,
            *self._worker_table(since_start),
        )  # fmt: skip

    def _routers(self) -> Table:
        rows = [tuple(self._router(name, each)) for name, each in self._statuses.items()]
        return fitted(ROUTER, rows, self._console)

    def _router(self, endpoint: str, status: RouterStatus | str) -> Iterator[str | Text]:
        yield endpoint
        if isinstance(status, str):
            yield from ("", Text(harmless(status), "red"), "", "", "")
            return
        yield ", ".join(each.model for each in status.models)
        yield as_state("draining" if status.draining else "ready")
        yield f"{status.requests_in_flight:,}"
        yield f"{status.requests_waiting:,}"
        yield str(timedelta(seconds=round(status.uptime_seconds)))

    def _latencies(self, before: Mapping[str, RouterStatus | str]) -> Table:
        found: dict[Key, LatencyHistogram] = {}
        for endpoint, status in self._statuses.items():
            for key, histogram in _since(status, before.get(endpoint)).items():
                found[key] = _sum(found[key], histogram) if key in found else histogram
        rows = []
        for model, name in dict.fromkeys((model, name) for model, _, name in found):
            ttft, tpot = found.get((model, "ttft", name)), found.get((model, "tpot", name))
            rows.append((*self._named(model), name, f"{ttft.count if ttft else 0:,}",
                         *_percentiles(ttft, 0), *_percentiles(tpot, 1)))  # fmt: skip
        return fitted((*self._named(MODEL), *LATENCY), rows, self._console)

    def _worker_table(self, whole: bool) -> Iterator[Table | Text]:
        workers = self._workers()
        room = len(workers) if whole else max(1, self._console.height - 12 - len(self._statuses))
        rows = [tuple(self._worker(worker)) for worker in workers[:room]]
        yield fitted((*self._named(MODEL), *WORKER), rows, self._console)
        answers = [each for each in self._statuses.values() if isinstance(each, RouterStatus)]
        num_workers = max((each.num_workers for each in answers), default=0)
        if max(num_workers, len(workers)) > len(rows):
            more = max(num_workers, len(workers)) - len(rows)
            yield Text(fit_encoding(f"… and {more:,} more; --json has them", self._console.file))

    def _worker(self, worker: WorkerState) -> Iterator[str | Text]:
        yield from self._named(worker.model)
        yield short_id(worker.worker_id, 6) or worker.address
        yield worker.address
        yield as_state(worker.condition)
        if not worker.worker_id:
            yield from ("", "", "", "", "")
            return
        yield f"{worker.running_requests:,}"
        queued = {queue.length_class: queue.requests for queue in worker.queues}
        yield f"{queued.get('short', queued.get('', 0)):,}"
        yield f"{queued['long']:,}" if "long" in queued else ""
        yield f"{worker.blocks_total - worker.blocks_free:,}/{worker.blocks_total:,}"
        yield f"{self._rates.per_second(worker.worker_id):,.0f}"

    def _named(self, cell: T) -> tuple[T, ...]:
        """A table's first column, where there are several models to tell apart."""
        answers = (each for each in self._statuses.values() if isinstance(each, RouterStatus))
        names = {model.model for answer in answers for model in answer.models}
        return (cell,) if len(names) > 1 else ()

    def _workers(self) -> list[WorkerState]:
        """Each once, as the first router that is connected to it sees it."""
        found: dict[str, WorkerState] = {}
        for status in self._statuses.values():
            if isinstance(status, RouterStatus):
                for worker in status.workers:
                    if worker.address not in found or not found[worker.address].worker_id:
                        found[worker.address] = worker
        return sorted(
            found.values(), key=lambda worker: (worker.model, worker.role, worker.address)
        )


def short_id(worker_id: str, digits: int) -> str:
    """decode-1a2b3c4d5e6f → decode-1a2b: enough to tell workers apart."""
    kind, dash, number = worker_id.rpartition("-")
    return f"{kind}{dash}{number[:digits]}"


def as_state(name: str) -> Text:
    return Text(name, STYLES.get(name, "red"))


def _since(
    status: RouterStatus | str, before: RouterStatus | str | None
) -> dict[Key, LatencyHistogram]:
    """What the router has counted since it told `before`; all of it where it was another then."""
    if isinstance(status, str):
        return {}
    known: dict[Key, LatencyHistogram] = {}
    if isinstance(before, RouterStatus) and before.router_id == status.router_id:
        known = _latencies(before)
    return {
        key: _sum(each, known[key], -1) if key in known else each
        for key, each in _latencies(status).items()
    }


def _latencies(status: RouterStatus) -> dict[Key, LatencyHistogram]:
    return {
        (model.model, each.measure, each.length_class): each
        for model in status.models
        for each in model.latencies
    }


def _sum(one: LatencyHistogram, other: LatencyHistogram, sign: int = 1) -> LatencyHistogram:
    """Routers of one version have the same bounds; of another one the first is all there is."""
    if one.upper_bounds != other.upper_bounds:
        return one
    return LatencyHistogram(
        measure=one.measure,
        length_class=one.length_class,
        upper_bounds=one.upper_bounds,
        counts=tuple(a + sign * b for a, b in zip(one.counts, other.counts, strict=True)),
    )


def _percentiles(histogram: LatencyHistogram | None, digits: int) -> Iterator[str]:
    for share in (0.5, 0.9, 0.99):
        seconds = histogram.quantile(share) if histogram is not None else None
        yield "" if seconds is None else f"{seconds * 1000:,.{digits}f}"
