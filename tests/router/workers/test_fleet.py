"""Which workers are used, which are not, and how soon the router notices."""

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from harness.waiting import eventually
from router.deployment import PROMPT, Deploy, Deployment, Running
from router.stub_workers import StubDecode, StubPrefill, stub_answer

from lengthwise_policy.cost.model import PRIOR
from lengthwise_router.config import DiscoveryConfig
from lengthwise_router.discovery.sources import discovery_of
from lengthwise_router.workers.wakeup import SWEEP_SECONDS
from lengthwise_runtime.config import ConfigError
from lengthwise_wire.v1 import worker_pb2


def condition_of(deployment: Deployment, address: str) -> str:
    workers = {worker.address: worker for worker in deployment.app._fleet.workers}
    return workers[address].condition if address in workers else "unknown"


def announce(folder: Path, worker: StubPrefill | StubDecode, role: str) -> Path:
    note = folder / f"{worker.worker_id}.json"
    note.write_text(json.dumps({"address": worker.address, "role": role}))
    return note


@pytest.mark.slow
async def test_a_frozen_worker_is_lost_within_the_heartbeat_timeout(deploy: Deploy) -> None:
    deployment = await deploy(heartbeat_timeout_seconds=0.4)
    worker = deployment.prefill[0]
    worker.freeze()
    began_at = time.monotonic()
    await eventually(lambda: condition_of(deployment, worker.address) in ("lost", "connecting"))
    assert time.monotonic() - began_at > 0.2
    worker.thaw()
    await deployment.ready()


async def test_a_silent_worker_is_given_up_before_the_timeout_is_over(deploy: Deploy) -> None:
    deployment = await deploy(heartbeat_timeout_seconds=2.0)
    fleet = deployment.app._fleet
    worker = fleet.workers[0]
    now = came_at = worker.received_at
    while worker.condition == "ready":
        now += SWEEP_SECONDS
        fleet.sweep(now)
    assert 2.0 - 3 * SWEEP_SECONDS < now - came_at < 2.0 - SWEEP_SECONDS + 1e-6


async def test_a_queue_is_taken_for_computed_while_no_status_comes(deploy: Deploy) -> None:
    deployment = await deploy(1, 1, heartbeat_timeout_seconds=60.0)
    (worker,) = deployment.prefill

    def queued() -> int:
        (view,), _ = deployment.served.workers.views()
        return view.queued_tokens

    worker.status["cost"] = worker_pb2.CostModel(step_seconds=0.02)
    worker.status["queues"] = [worker_pb2.QueueStatus(length_class="long", tokens=2048)]
    await eventually(lambda: queued() > 1024)
    worker.freeze()
    await eventually(lambda: queued() == 0)
    worker.thaw()


async def test_a_killed_worker_is_lost_at_once(deploy: Deploy) -> None:
    deployment = await deploy(heartbeat_timeout_seconds=60.0)
    await deployment.decode[0].stop()
    await deployment.ready(1)  # long before a heartbeat is missed


@pytest.mark.slow
async def test_a_silence_of_the_router_itself_is_not_the_workers(
    deploy: Deploy, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = await deploy(heartbeat_timeout_seconds=0.5)
    time.sleep(0.8)  # noqa: ASYNC251  # the event loop of router, workers and client stands still
    assert (await deployment.generate(max_tokens=3)).token_ids == stub_answer(PROMPT, 3)
    assert not [record for record in caplog.records if "is lost" in record.message]


async def test_a_worker_of_another_model_is_reported_and_not_used(
    deploy: Deploy, running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    other = StubDecode(model="other")
    await running(other)
    deployment = await deploy(extra_endpoints=[other.address])
    await eventually(lambda: condition_of(deployment, other.address) == "incompatible")
    await deployment.generate(max_tokens=5)
    assert not other.reserves
    reports = [record for record in caplog.records if "it serves 'other'" in record.message]
    assert len(reports) == 1


async def test_workers_of_other_weights_are_never_paired(deploy: Deploy, running: Running) -> None:
    other = StubDecode(fingerprint="other weights")
    await running(other)
    deployment = await deploy(extra_endpoints=[other.address])
    await eventually(lambda: len(deployment.usable()) == 3)
    for _ in range(5):
        await deployment.generate(max_tokens=3)
    assert not other.reserves


@pytest.mark.slow
async def test_a_draining_worker_gets_nothing_new_and_finishes_what_it_has(deploy: Deploy) -> None:
    deployment = await deploy(1, 2, step_seconds=0.01)
    first = min(deployment.decode, key=lambda worker: worker.worker_id)
    (other,) = (worker for worker in deployment.decode if worker is not first)
    running = asyncio.create_task(deployment.generate(max_tokens=60))
    await eventually(lambda: first.held)
    first.draining = True
    await eventually(lambda: condition_of(deployment, first.address) == "draining")
    await deployment.generate(max_tokens=5)
    answer = await running
    assert answer.token_ids == stub_answer(PROMPT, 60)
    assert answer.last.timings.retries == 0
    assert (len(first.reserves), len(other.reserves)) == (1, 1)


async def test_one_worker_under_two_addresses_is_one_worker(
    deploy: Deploy, running: Running
) -> None:
    decode = StubDecode()
    prefill = StubPrefill([decode])
    await running(decode, prefill)
    port = decode.address.rpartition(":")[2]
    endpoints = (prefill.address, decode.address, f"localhost:{port}")
    deployment = await deploy(0, 0, discovery=DiscoveryConfig(endpoints=endpoints))
    await deployment.ready(2)
    for _ in range(5):
        await deployment.generate(max_tokens=10)
    assert len(deployment.usable()) == 2


@pytest.mark.slow
async def test_workers_come_and_go_with_their_announcements(
    deploy: Deploy, running: Running, tmp_path: Path
) -> None:
    decode = StubDecode()
    prefill = StubPrefill([decode])
    await running(decode, prefill)
    announce(tmp_path, prefill, "prefill")
    (tmp_path / "router-1.json").write_text(json.dumps({"address": "x:1", "role": "router"}))
    (tmp_path / "broken.json").write_text("{")
    deployment = await deploy(0, 0, discovery=DiscoveryConfig(folder=tmp_path))
    await deployment.ready(1)
    note = announce(tmp_path, decode, "decode")
    await deployment.ready(2)
    assert (await deployment.generate(max_tokens=5)).token_ids == stub_answer(PROMPT, 5)
    note.unlink()
    decode.draining = True
    await eventually(lambda: condition_of(deployment, decode.address) == "draining")
    await decode.stop()
    await eventually(lambda: condition_of(deployment, decode.address) == "unknown")


async def test_a_note_left_behind_by_a_killed_worker_does_no_harm(
    deploy: Deploy, running: Running, tmp_path: Path
) -> None:
    for number in range(3):
        note = {"address": f"127.0.0.1:{number + 1}", "role": "decode"}
        (tmp_path / f"{number}.json").write_text(json.dumps(note))
    decode = StubDecode()
    prefill = StubPrefill([decode])
    await running(decode, prefill)
    announce(tmp_path, decode, "decode")
    announce(tmp_path, prefill, "prefill")
    deployment = await deploy(0, 0, discovery=DiscoveryConfig(folder=tmp_path))
    await deployment.ready(2)
    assert (await deployment.generate(max_tokens=5)).token_ids == stub_answer(PROMPT, 5)


def test_a_discovery_folder_that_is_not_there_is_the_operators_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"discovery\.folder: .* is no folder"):
        discovery_of(DiscoveryConfig(folder=tmp_path / "nowhere"), lambda reason: None)


async def test_malformed_batches_cost_the_connection_not_the_router(
    deploy: Deploy, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = await deploy(no_worker_seconds=5.0)
    deployment.decode[0].send_columns(reservations=[1, 2], indices=[1], token_ids=[1, 2])
    await eventually(lambda: any("malformed" in record.message for record in caplog.records))
    await deployment.ready()
    assert (await deployment.generate(max_tokens=5)).token_ids == stub_answer(PROMPT, 5)


async def test_a_loss_is_logged_as_one_unless_it_was_expected(
    deploy: Deploy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    deployment = await deploy()
    deployment.decode[0].draining = True
    await eventually(lambda: condition_of(deployment, deployment.decode[0].address) == "draining")
    await deployment.decode[0].stop()
    await deployment.prefill[0].stop()
    await deployment.ready(0)

    def level(role: str) -> Any:
        lines = [r for r in caplog.records if f"<{role}" in r.message and "is lost" in r.message]
        return [line.levelname for line in lines]

    assert level("decode") == ["INFO"]
    assert level("prefill") == ["WARNING"]


async def test_a_worker_that_discovery_withdraws_gets_nothing_new(
    deploy: Deploy, running: Running, tmp_path: Path
) -> None:
    withdrawn, other = StubDecode(), StubDecode()
    prefill = StubPrefill([withdrawn, other])
    await running(withdrawn, other, prefill)
    note = announce(tmp_path, withdrawn, "decode")
    announce(tmp_path, other, "decode")
    announce(tmp_path, prefill, "prefill")
    deployment = await deploy(0, 0, discovery=DiscoveryConfig(folder=tmp_path))
    await deployment.ready(3)
    note.unlink()
    await eventually(
        lambda: any(view.draining for views in deployment.served.workers.views() for view in views),
        1.0,
    )
    for _ in range(5):
        await deployment.generate(max_tokens=3)
    assert (len(withdrawn.reserves), len(other.reserves)) == (0, 5)


async def test_a_newcomer_is_taken_for_one_of_its_peers_until_it_reports_what_its_steps_take(
    deploy: Deploy,
) -> None:
    """By the prior it would be slower than all of them, and would never get a request."""
    deployment = await deploy(num_decode=3)

    def costs() -> dict[str, tuple[float, bool]]:
        _, decode = deployment.served.workers.views()
        return {view.worker_id: (view.cost.step_seconds, view.is_fitted) for view in decode}

    first, second, newcomer = deployment.decode
    assert costs()[newcomer.worker_id] == (PRIOR.step_seconds, False)
    first.status["cost"] = worker_pb2.CostModel(step_seconds=0.001)
    await eventually(lambda: costs()[first.worker_id] == (0.001, True))
    second.status["cost"] = worker_pb2.CostModel(step_seconds=0.003)
    await eventually(lambda: costs()[newcomer.worker_id] == (0.001, True))
    newcomer.status["cost"] = worker_pb2.CostModel(step_seconds=0.002)
    await eventually(lambda: costs()[newcomer.worker_id] == (0.002, True))
