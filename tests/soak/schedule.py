"""What goes wrong and when: a pure value, made from a seed, to be printed and played again."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

Kind = Literal[
    "kill",
    "crash loop",
    "drain",
    "freeze",
    "kill transfer",
    "crash loop transfer",
    "freeze transfer",
    "cut link",
    "cut channel",
    "flip",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

ENDS: frozenset[Kind] = frozenset({"kill", "crash loop", "drain"})
"""After these a process begins anew: what it had leaked is gone."""

CRASH_LOOP_SECONDS = (3.0, 15.0)
CUT_SECONDS = (0.0, 10.0)
SHARE_WITH_COMPANY = 0.4
"""Of the moments at which several faults happen at once: two or three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`victim` and `peer` are names of processes; only what cuts a connection has a peer. `seconds`
    0: it happens once."""

    at_seconds: float
    kind: Kind
    victim: str
    peer: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        names = self.victim + (f" from {self.peer}" if self.peer else "")
        duration = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at_seconds:7.1f} s  {self.kind} {names}{duration}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The names of the processes. The steady ones are never ended, so that what they leak adds up;
    the router of callers without the SDK, who could not go elsewhere, is not frozen either."""

    prefill: tuple[str, ...]
    decode: tuple[str, ...]
    flexible: tuple[str, ...]
    routers: tuple[str, ...]
    raw_router: str
    steady: frozenset[str]

    @property
    def workers(self) -> tuple[str, ...]:
        return (*self.prefill, *self.decode, *self.flexible)

    def victims(self, kind: Kind) -> Sequence[str]:
        if kind in ENDS:
            names = (*self.workers, *self.routers)
            return [name for name in names if name not in self.steady]
        if kind == "freeze":
            return (*self.workers, *self.routers)
        if kind == "cut link":
            return (*self.prefill, *self.flexible)
        if kind == "cut channel":
            return (*self.routers, self.raw_router)
        return self.flexible if kind == "flip" else self.workers

    def peers(self, kind: Kind, victim: str) -> Sequence[str]:
        if kind == "cut channel":
            return self.workers
        return [name for name in (*self.decode, *self.flexible) if name != victim]


def make_schedule(
    seed: int,
    seconds: float,
    roster: Roster,
    *,
    every_seconds: float = 6.0,
    freeze_seconds: tuple[float, float] = (3.0, 40.0),
) -> tuple[Fault, ...]:
    """Faults from the start until `seconds`, about one in `every_seconds`, every kind as often as
    any other, in the order of their times."""
    rng = random.Random(seed)
    lasting = {
        "freeze": freeze_seconds,
        "freeze transfer": freeze_seconds,
        "crash loop": CRASH_LOOP_SECONDS,
        "crash loop transfer": CRASH_LOOP_SECONDS,
        "cut link": CUT_SECONDS,
        "cut channel": CUT_SECONDS,
    }
    kinds = _dealt(rng, [kind for kind in KINDS if roster.victims(kind)])
    faults: list[Fault] = []
    count = round(seconds / every_seconds)
    at = 0.0
    while len(faults) < count:
        company = rng.choice((2, 3)) if rng.random() < SHARE_WITH_COMPANY else 1
        for kind in (next(kinds) for _ in range(company)):
            victim = rng.choice(roster.victims(kind))
            peer = rng.choice(roster.peers(kind, victim)) if kind.startswith("cut") else ""
            duration = _between(rng, *lasting[kind]) if kind in lasting else 0.0
            faults.append(
                Fault(at_seconds=at, kind=kind, victim=victim, peer=peer, seconds=duration)
            )
        at += company * rng.uniform(0.5, 1.5)
    scale = seconds / at
    return tuple(replace(f, at_seconds=round(f.at_seconds * scale, 2)) for f in faults)


def _dealt(rng: random.Random, kinds: Sequence[Kind]) -> Iterator[Kind]:
    """Each once in any order, then again."""
    while True:
        yield from rng.sample(kinds, len(kinds))


def _between(rng: random.Random, low: float, high: float) -> float:
    """Short times are as likely as long ones: their logarithm is uniform, above a second."""
    return round(math.exp(rng.uniform(math.log1p(low), math.log1p(high))) - 1, 1)
