"""Faults of every kind under load cost no request and no token, and nothing is held afterwards; nor
after callers that gave up."""

import asyncio
import time

import pytest
from harness.clusters import nothing_is_held, questions
from harness.waiting import eventually
from soak.fleet import Fleet
from soak.report import Report
from soak.schedule import make_schedule
from soak.soaking import soak

import lengthwise
from lengthwise_checkpoint.toy import ToySpec
from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SEED, SECONDS = 4, 14.0
HUNG_SECONDS = 30.0
"""Three times what `make soak` permits, of machines that do much besides."""


def said_of(request_id: str, cluster: LocalCluster) -> list[str]:
    """What the processes have logged of a request."""
    return [
        f"{process.name}: {line}"
        for process in cluster.processes
        for line in process.log_tail(100_000).splitlines()
        if line.endswith(f"request_id={request_id}")
    ]


async def test_faults_of_every_kind_cost_no_request(
    cluster: LocalCluster, toy_spec: ToySpec
) -> None:
    """`make soak` has them for longer."""
    fleet = Fleet.of(cluster)
    schedule = make_schedule(
        SEED, SECONDS, fleet.roster, every_seconds=1.5, freeze_seconds=(3.0, 4.0)
    )
    report = Report(SEED, SECONDS, time.monotonic())
    await soak(report, fleet, toy_spec, schedule, per_second=8.0, tell=print)
    print(report.line)
    for outcome in report.silent():
        print(*said_of(f"soak-{outcome.number}", cluster), sep="\n")
    assert (report.failed(), report.wrong()) == ([], [])
    assert (report.held, report.ends) == ([], [])
    assert report.silence(1.0) < HUNG_SECONDS


async def test_abandoned_requests_leave_nothing_behind(
    cluster: LocalCluster, toy_spec: ToySpec
) -> None:
    """Callers that give up anywhere between the first millisecond and half a second."""
    async with lengthwise.AsyncClient(cluster.endpoints) as client:

        async def abandon(number: int) -> bool:
            (question,) = questions(1, seed=number, longest=1000, most=200)
            try:
                async with asyncio.timeout(0.5 * (number % 100) / 100):
                    await client.generate(
                        list(question.prompt), max_tokens=question.max_tokens, temperature=0
                    )
            except TimeoutError:
                return True
            return False

        abandoned = [
            sum(await asyncio.gather(*(abandon(start + i) for i in range(20))))
            for start in range(0, 300, 20)
        ]
        await eventually(lambda: nothing_is_held(cluster))
    assert sum(abandoned) > 50, "too few were abandoned for this to mean anything"
