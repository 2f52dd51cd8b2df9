"""The process: its options, its signals, its end."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from autoscaler.release import Release
from harness.kubernetes_objects import FakeObjects
from harness.waiting import eventually

pytestmark = pytest.mark.slow

LEASE = "demo-lengthwise-autoscaler"


class Process:
    """`python -m lengthwise_autoscaler`."""

    def __init__(self, config: Path, log: Path, *options: str) -> None:
        self._log = log
        with log.open("wb") as output:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "lengthwise_autoscaler", f"--config={config}", *options],
                stderr=output,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def ends(self, seconds: float = 10.0) -> int:
        return await asyncio.to_thread(self.child.wait, seconds)

    def end(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait(10)


Run = Callable[..., Awaitable[Process]]


@pytest.fixture
async def run(write_config: Callable[..., Path], tmp_path: Path) -> AsyncIterator[Run]:
    """`await run(*options, **keys)`: one that has said that it watches or sizes pools."""
    processes: list[Process] = []

    async def begin(*options: str, **keys: object) -> Process:
        log = tmp_path / f"log-{len(processes)}"
        processes.append(Process(write_config(**keys), log, *options))
        await eventually(lambda: "2 pools of release demo" in processes[-1].log, 15.0)
        return processes[-1]

    yield begin
    for process in processes:
        process.end()


def holder(objects: FakeObjects) -> str:
    lease = objects.objects["leases"].get(LEASE)
    return str(lease["spec"]["holderIdentity"]) if lease else ""


async def test_an_end_by_signal_gives_up_the_lease(
    release: Release, run: Run, objects: FakeObjects
) -> None:
    process = await run(identity="one")
    await eventually(lambda: holder(objects).startswith("one_"))
    process.child.send_signal(signal.SIGTERM)
    assert await process.ends() == 0
    assert holder(objects) == ""


async def test_an_end_is_bounded_even_where_the_api_server_does_not_answer(
    release: Release, run: Run, objects: FakeObjects
) -> None:
    process = await run()
    await eventually(lambda: holder(objects))
    objects.answers.clear()
    process.child.send_signal(signal.SIGTERM)
    assert await process.ends(14.5) == 0
    objects.answers.set()


async def test_a_dry_run_by_option_does_not_lead(
    release: Release, run: Run, objects: FakeObjects
) -> None:
    process = await run("--dry-run")
    assert "watches (dry run)" in process.log
    await eventually(lambda: objects.requests.count("list pods") > 3)
    assert holder(objects) == ""
    process.child.send_signal(signal.SIGTERM)
    assert await process.ends() == 0


async def test_probes_and_metrics_are_served(release: Release, run: Run) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{listener.getsockname()[1]}"
    await run(metrics_listen=listen)
    async with httpx.AsyncClient(base_url=f"http://{listen}") as client:
        assert (await client.get("/healthz")).status_code == 200
        text = (await client.get("/metrics")).text
    assert 'lengthwise_pool_max_replicas{pool="prefill"} 4.0' in text
    assert 'lengthwise_scaling_errors_total{reason="data_stale"} 0.0' in text
    assert "lengthwise_autoscaler_dry_run 0.0" in text


async def test_a_leader_that_was_frozen_does_not_act_when_it_runs_again(
    release: Release, run: Run, objects: FakeObjects
) -> None:
    first = await run(identity="first")
    await eventually(lambda: holder(objects).startswith("first_"))
    second = await run(identity="second")
    first.child.send_signal(signal.SIGSTOP)
    # The whole 15 seconds of the Lease, of which it is not known how many have passed.
    await eventually(lambda: holder(objects).startswith("second_"), 25.0)
    first.child.send_signal(signal.SIGCONT)
    await eventually(lambda: "leads no more" in first.log, 10.0)
    assert holder(objects).startswith("second_")
    assert "leads no more" not in second.log


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        pytest.param({"kubeconfig": "/nowhere"}, "kubeconfig /nowhere", id="no kubeconfig"),
        pytest.param({"kubeconfig": None}, "not in a pod with a ServiceAccount", id="no pod"),
    ],
)
async def test_what_an_operator_can_mend_is_one_line(
    write_config: Callable[..., Path], tmp_path: Path, keys: dict[str, object], expected: str
) -> None:
    process = Process(write_config(**keys), tmp_path / "log")
    assert await process.ends() == 2
    assert expected in process.log
    assert "Traceback" not in process.log
