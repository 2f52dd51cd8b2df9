"""Length-aware scheduling against first come, first served: the same traffic on live clusters.

Real processes on the CPU: router, prefill and decode workers with a small Llama, and this process
as all the clients, which takes its share of the same cores. The arms of a repeat play the same
conversations one after the other, in an order that rotates, so that their ratios do not see slow
changes of the machine. Load is a share of what `fcfs` does at most, measured first.

Targets, as medians of paired ratios to `fcfs`: see `scheduling_report.TARGETS`. Five clusters need
6 GiB of memory and two idle cores; `make bench-scheduling ARGUMENTS="--quick"` takes 2 minutes.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cpu import CpuWatch
from rows import DATA, append_rows
from traces import SHAREGPT_LENGTHS

import lengthwise
from scheduling.arms import ARMS, BASELINE, CONTEXT_LENGTH, LENGTH_AWARE, VOCAB_SIZE, Arm, Machine
from scheduling.player import Player, Sample
from scheduling.plot import draw
from scheduling.report import report
from scheduling.result import Result
from scheduling.traffic import (
    BURSTS,
    HOMOGENEOUS,
    LONG_ONLY,
    MULTI_TURN,
    Conversation,
    Lengths,
    Mix,
    Turn,
    conversations,
    open_loop,
    read_lengths,
    scale,
)

CONCURRENCY: Final = 16
"""Conversations of the closed loop: enough to keep both workers busy, few enough to turn over."""

ALONE_TOKENS: Final = (50, 512, 2048)


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """A mix, for how long, and in which arms."""

    name: str
    mix: Mix
    warm_up_seconds: float
    window_seconds: float
    arms: tuple[Arm, ...] = (BASELINE, LENGTH_AWARE)
    is_saturated: bool = False  # a closed loop without thinking, instead of a share of the capacity

    @property
    def stop_at(self) -> float:
        return self.warm_up_seconds + self.window_seconds


PLAYS: Final = (
    Play(name="multi_turn", mix=MULTI_TURN, warm_up_seconds=7, window_seconds=20, arms=ARMS),
    Play(name="saturated", mix=MULTI_TURN, warm_up_seconds=3, window_seconds=10, is_saturated=True),
    Play(name="homogeneous", mix=HOMOGENEOUS, warm_up_seconds=1, window_seconds=9),
    Play(name="long_only", mix=LONG_ONLY, warm_up_seconds=2, window_seconds=12),
    Play(name="bursts", mix=BURSTS, warm_up_seconds=3, window_seconds=12),
)
QUICK: Final = (
    Play(name="multi_turn", mix=MULTI_TURN, warm_up_seconds=4, window_seconds=12, arms=ARMS[:4]),
    Play(name="saturated", mix=MULTI_TURN, warm_up_seconds=2, window_seconds=4, is_saturated=True),
)


class Benchmark:
    """The clusters' model and the traffic's lengths, and what has been measured so far."""

    def __init__(
        self, machine: Machine, rows: Sequence[Lengths], *, load: float, is_null: bool
    ) -> None:
        """is_null: every arm gets the baseline's configuration."""
        self.machine = machine
        self.rows = rows
        self.load = load
        self.is_null = is_null
        self.capacities: dict[str, float] = {}  # requests/s of the baseline, by mix
        self.alone: dict[str, float] = {}  # TTFT of a single prompt of so many tokens
        self.results: list[Result] = []
        self.failures: list[str] = []  # plays in which a request failed

    def calibrate(self, model: Path, plays: Sequence[Play]) -> None:
        """Measures the baseline's capacity in every mix, and prefills alone."""
        with self.machine.start(model, {BASELINE.name: BASELINE}) as endpoints:
            endpoint = endpoints[BASELINE.name]
            for num_tokens in ALONE_TOKENS:
                seconds = time_to_first_token_alone(endpoint, num_tokens)
                self.alone[f"alone_{num_tokens}_ms"] = round(seconds * 1e3, 1)
            for mix in dict.fromkeys(play.mix for play in plays if play.mix != BURSTS):
                play = Play(name="", mix=mix, warm_up_seconds=3, window_seconds=12)
                samples = self._saturate(endpoint, play, seed=0)
                ended = [s for s in samples if play.warm_up_seconds <= s.ended_at < play.stop_at]
                self.capacities[mix.name] = len(ended) / play.window_seconds
        print("first token of a prompt alone:", self.alone)
        print("capacity in requests/s:", self.capacities, flush=True)
        # The same conversations; only their starts differ, and a closed loop has none.
        self.capacities[BURSTS.name] = self.capacities[MULTI_TURN.name]

    def repeat(self, model: Path, plays: Sequence[Play], number: int) -> None:
        """Plays everything once, every arm of a play right after the other."""
        arms = {
            arm.name: BASELINE if self.is_null else arm
            for arm in ARMS
            if any(arm in play.arms for play in plays)
        }
        with self.machine.start(model, arms) as endpoints:
            for play in plays:
                first = number % len(play.arms)
                for arm in (*play.arms[first:], *play.arms[:first]):
                    try:
                        result = self._play(endpoints[arm.name], play, arm, number)
                    except (ExceptionGroup, TimeoutError) as error:
                        # Not reported: an arm that drops requests is fast for the others.
                        self.failures.append(f"{number + 1} {play.name} {arm.name}: {error!r}")
                        print(self.failures[-1], flush=True)
                        continue
                    self.results.append(result)
                    print(number + 1, play.name, arm.name, result.summary(), flush=True)

    def _play(self, endpoint: str, play: Play, arm: Arm, number: int) -> Result:
        rate, watch = 0.0, CpuWatch()
        if play.is_saturated:
            samples = self._saturate(endpoint, play, seed=number + 1)
        else:
            rate = self.load * self.capacities[play.mix.name]
            planned = open_loop(
                play.mix,
                self.rows,
                context_length=CONTEXT_LENGTH,
                seed=number + 1,
                rate=rate,
                seconds=play.stop_at,
            )
            samples = asyncio.run(self._player(endpoint, play).open_loop(planned))
        return Result(
            repeat=number + 1,
            play=play.name,
            arm=arm.name,
            rate=rate,
            window=(play.warm_up_seconds, play.stop_at),
            cpu=watch.use(),
            samples=tuple(samples),
        )

    def _saturate(self, endpoint: str, play: Play, seed: int) -> list[Sample]:
        source = conversations(play.mix, self.rows, context_length=CONTEXT_LENGTH, seed=-seed)
        return asyncio.run(self._player(endpoint, play).closed_loop(source, CONCURRENCY))

    def _player(self, endpoint: str, play: Play) -> Player:
        client = lengthwise.AsyncClient(endpoint)
        return Player(client, vocab_size=VOCAB_SIZE, stop_at=play.stop_at)


def time_to_first_token_alone(endpoint: str, num_tokens: int) -> float:
    """Median of some requests one after the other on an idle cluster, the first left out."""
    turn = Turn(user_tokens=num_tokens, reply_tokens=2, think_seconds=0.0)
    player = Player(lengthwise.AsyncClient(endpoint), vocab_size=VOCAB_SIZE, stop_at=60.0)
    asks = [
        Conversation(seed=-1000 * num_tokens - i, start_at=0.0, turns=(turn,)) for i in range(4)
    ]
    samples = asyncio.run(player.one_by_one(asks))
    return statistics.median(sample.ttft_seconds for sample in samples[1:])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--trace", type=Path, default=SHAREGPT_LENGTHS, help="prompt_tokens, output_tokens"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--load", type=float, default=0.7, help="share of the baseline's capacity")
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--prefill", type=int, default=1, help="prefill workers")
    parser.add_argument("--quick", action="store_true", help="2 minutes; records nothing")
    parser.add_argument(
        "--null",
        action="store_true",
        help="gives length_aware the configuration of fcfs, to see what ratios are worth; "
        "records nothing",
    )
    parser.add_argument("--dry", action="store_true", help="records nothing")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    plays = QUICK if arguments.quick else PLAYS
    machine = Machine(
        hidden_size=arguments.hidden, num_layers=arguments.layers, num_prefill=arguments.prefill
    )
    try:
        rows = scale(read_lengths(arguments.trace), CONTEXT_LENGTH)
    except ValueError as error:
        sys.exit(str(error))
    benchmark = Benchmark(machine, rows, load=arguments.load, is_null=arguments.null)
    began_at = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        model = machine.write_model(Path(folder) / "llama")
        benchmark.calibrate(model, plays)
        for number in range(1 if arguments.quick else arguments.repeats):
            benchmark.repeat(model, plays, number)
    report(benchmark.results)
    print(f"{(time.monotonic() - began_at) / 60:.1f} minutes")
    if not (arguments.quick or arguments.dry or arguments.null):
        settings = {
            **machine.describe(),
            **benchmark.alone,
            "load": arguments.load,
            "trace": arguments.trace.name,
        }
        append_rows("scheduling", [result.row(settings) for result in benchmark.results])
        print(draw(benchmark.results, DATA / "scheduling.svg"))
    if benchmark.failures:
        sys.exit("left out, because requests failed:\n" + "\n".join(benchmark.failures))


if __name__ == "__main__":
    main()
