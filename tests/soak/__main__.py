"""Soaks a whole deployment in faults: `python -m soak --seed 7 --seconds 1800`.

A failing run names its seed: the same one plays the same faults at the same times again. `--only`
plays some of them: numbers of the printed schedule, or kinds. Exit code 1 when anything was found.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from flexible_worker.flexible import flexible_worker
from soak.fleet import Fleet
from soak.report import Report
from soak.schedule import Fault, make_schedule
from soak.soaking import soak

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.toy import read_toy_spec
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster

PROGRESS_SECONDS = 30.0

WORKER: dict[str, object] = {"num_blocks": 2048, "threads": 1}
ROUTER: dict[str, object] = {"explained_requests": 256}
"""So few that the memory for them is in use before the warm-up ends."""


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        model = write_toy_checkpoint(
            Path(folder), step_seconds=0.005, prefill_seconds_per_token=0.0001
        )
        report = asyncio.run(run(arguments, model))
    tell(report.line)
    for trouble in report.troubles:
        print(trouble)
    if report.troubles:
        sys.exit(f"failed; again: python -m soak {' '.join(sys.argv[1:])}")


async def run(arguments: argparse.Namespace, model: Path) -> Report:
    with LocalCluster(
        model=model,
        device="cpu",
        prefill=1,
        decode=2,
        routers=3,
        configs={"prefill": WORKER, "decode": WORKER, "router": ROUTER},
    ) as cluster:
        flexible = flexible_worker(cluster, model, "prefill", **WORKER)
        flexible.start()
        flexible.wait_ready(60)
        fleet = Fleet.of(cluster, [flexible])
        schedule = chosen(
            make_schedule(
                arguments.seed,
                arguments.seconds,
                fleet.roster,
                every_seconds=arguments.every,
            ),
            arguments.only,
        )
        report = Report(arguments.seed, arguments.seconds, time.monotonic())
        progress = asyncio.create_task(tell_progress(report))
        spec = read_toy_spec(ConfigJson.read(model / "config.json"))
        try:
            await soak(report, fleet, spec, schedule, per_second=arguments.rate, tell=tell)
        finally:
            progress.cancel()
            if arguments.csv:
                report.write_csv(arguments.csv, arguments.label)
            flexible.drain()
            flexible.wait(60)
        return report


def chosen(schedule: Sequence[Fault], only: str) -> list[Fault]:
    """Prints the schedule, and leaves out what was not asked for."""
    wanted = only.split(",") if only else []
    kept = []
    for number, fault in enumerate(schedule):
        is_kept = not wanted or str(number) in wanted or fault.kind in wanted
        print(f"{number:4} {fault}{'' if is_kept else ', left out'}")
        if is_kept:
            kept.append(fault)
    return kept


async def tell_progress(report: Report) -> None:
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        tell(f"{time.monotonic() - report.began_at:7.1f} s  {report.line}")


def tell(line: str) -> None:
    print(line, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second")
    parser.add_argument("--every", type=float, default=6.0, help="seconds for each fault")
    parser.add_argument("--only", default="", help="numbers of faults, or kinds, with commas")
    parser.add_argument("--csv", type=Path, help="where to write rows of the result")
    parser.add_argument("--label", default="this commit", help="names the code in these rows")
    return parser.parse_args()


if __name__ == "__main__":
    main()
