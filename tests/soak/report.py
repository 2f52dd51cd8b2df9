"""What a soak found: tallies, the lines that tell of them, and rows of a table."""

import csv
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from soak.callers import SILENT_SECONDS, Outcome, Route
from soak.leaks import TOLERATED, leaks
from soak.schedule import Fault

ROUTES: tuple[Route, ...] = ("sdk", "raw")


@dataclass(slots=True)
class Report:
    """Grows while the soak goes on."""

    seed: int
    seconds: float
    began_at: float
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: dict[Route, list[Outcome]] = field(default_factory=lambda: {r: [] for r in ROUTES})
    out_seconds: dict[Route, float] = field(default_factory=dict)
    held: list[str] = field(default_factory=list)
    """What was not given back in the end."""
    growths: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)
    """Of the machine: processes that ran or would have. With fewer cores it was silent itself."""
    ends: list[str] = field(default_factory=list)
    """How processes ended that no fault had ended."""

    def happened(self, fault: Fault) -> None:
        self.faults[fault.kind] += 1

    def ended(self, outcome: Outcome) -> str:
        """What is to be told of it, in a line; empty if nothing."""
        self.outcomes[outcome.route].append(outcome)
        at = f"{outcome.began_at - self.began_at:7.1f} s  soak-{outcome.number} ({outcome.route})"
        if outcome.wrong:
            return f"{at} is wrong: {outcome.wrong}"
        if outcome.error:
            return f"{at} {'had no path' if outcome.unservable else 'failed'}: {outcome.error}"
        if outcome.silence > SILENT_SECONDS:
            return f"{at} was silent for {outcome.silence:.1f} s"
        return ""

    def failed(self, *routes: Route) -> list[Outcome]:
        return [o for o in self._all(*routes) if o.error and not o.unservable]

    def wrong(self, *routes: Route) -> list[Outcome]:
        return [o for o in self._all(*routes) if o.wrong]

    def silent(self, *routes: Route) -> list[Outcome]:
        return [o for o in self._all(*routes) if o.silence > SILENT_SECONDS]

    def unservable(self, *routes: Route) -> list[Outcome]:
        return [o for o in self._all(*routes) if o.unservable]

    def silence(self, share: float, *routes: Route) -> float:
        """Seconds that this share of the requests did not exceed."""
        silences = sorted(o.silence for o in self._all(*routes)) or [0.0]
        return silences[min(len(silences) - 1, int(len(silences) * share))]

    @property
    def line(self) -> str:
        return (
            f"{len(self._all())} requests, {self.faults.total()} faults:"
            f" {len(self.failed())} failed, {len(self.wrong())} wrong,"
            f" {len(self.silent())} silent for more than {SILENT_SECONDS:g} s,"
            f" {len(self.unservable())} without a path;"
            f" silence p50 {self.silence(0.5):.2f} s, p99 {self.silence(0.99):.2f} s,"
            f" at most {self.silence(1.0):.2f} s"
        )

    @property
    def troubles(self) -> list[str]:
        """All that should not have been, a line each."""
        counts = {
            "failed": len(self.failed()),
            "wrong": len(self.wrong()),
            f"silent for more than {SILENT_SECONDS:g} s": len(self.silent()),
        }
        return [
            *(f"{count} requests {what}" for what, count in counts.items() if count),
            *(f"ended by itself: {end}" for end in self.ends),
            *(f"leaked: {leak}" for leak in leaks(self.growths)),
            *(f"held in the end: {held}" for held in self.held),
        ]

    def rows(self, label: str) -> list[dict[str, object]]:
        """As `python -m rows soak FILE` takes them, one for each way of calling."""
        grown = {
            what: max((growths[what] for growths in self.growths.values()), default=0.0)
            for what in TOLERATED
        }
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        return [
            {
                "code": label,
                "seed": self.seed,
                "seconds": f"{self.seconds:.0f}",
                "faults": self.faults.total(),
                "of_each_kind": faults,
                "callers": route,
                "requests": len(self._all(route)),
                "failed": len(self.failed(route)),
                "wrong": len(self.wrong(route)),
                "silent_over_10_s": len(self.silent(route)),
                "without_a_path": len(self.unservable(route)),
                "seconds_without_a_path": f"{self.out_seconds.get(route, 0.0):.1f}",
                "silence_p50_ms": f"{1000 * self.silence(0.5, route):.0f}",
                "silence_p99_ms": f"{1000 * self.silence(0.99, route):.0f}",
                "silence_max_ms": f"{1000 * self.silence(1.0, route):.0f}",
                "machine_load": f"{statistics.fmean(self.loads or [0.0]):.1f}",
                "held": len(self.held),
                "ended_by_themselves": len(self.ends),
                **{f"{what}_grown": f"{growth:.1f}" for what, growth in grown.items()},
            }
            for route in ROUTES
        ]

    def write_csv(self, path: Path, label: str) -> None:
        rows = self.rows(label)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def _all(self, *routes: Route) -> list[Outcome]:
        return [outcome for route in routes or ROUTES for outcome in self.outcomes[route]]
