"""After known traffic, the metrics report just that."""

import asyncio

import pytest
from harness.samples import samples_of
from harness.waiting import eventually
from router.deployment import PROMPT, Deploy

from lengthwise_policy.kv.prefix_cache import block_hashes, short_hash
from lengthwise_policy.objectives import Objectives
from lengthwise_wire.errors import InternalError
from lengthwise_wire.v1 import inference_pb2

SHORT, LONG = {"length_class": "short"}, {"length_class": "long"}


@pytest.mark.slow
async def test_requests_and_tokens_are_counted(deploy: Deploy) -> None:
    deployment = await deploy(metrics_listen="127.0.0.1:0")
    for _ in range(3):
        await deployment.generate(max_tokens=20)
    await deployment.generate(max_tokens=1)
    await deployment.generate(prompt=[65] * 300, max_tokens=4)
    await deployment.refused(max_tokens=0)
    deployment.prefill[0].hangs = True
    call = deployment.call(max_tokens=400)
    await eventually(lambda: deployment.prefill[0].running)
    assert await deployment.metric("lengthwise_requests_in_flight") == 1
    call.cancel()
    await eventually(lambda: deployment.in_flight == 0)
    metric = deployment.metric
    requests = "lengthwise_requests_total"
    assert await metric(requests, code="OK", model="stub") == 5
    assert await metric(requests, code="INVALID_ARGUMENT", model="stub") == 1
    assert await metric(requests, code="CANCELLED", model="stub") == 1
    assert await metric("lengthwise_requests_in_flight") == 0
    assert await metric("lengthwise_time_to_first_token_seconds_count", **SHORT) == 4
    assert await metric("lengthwise_time_to_first_token_seconds_count", **LONG) == 1
    assert await metric("lengthwise_time_per_output_token_seconds_count", **SHORT) == 3
    assert await metric("lengthwise_time_per_output_token_seconds_count", **LONG) == 1
    assert await metric("lengthwise_prompt_tokens_sum") == 5 * len(PROMPT) + 300
    assert await metric("lengthwise_output_tokens_sum") == 3 * 20 + 1 + 4
    assert await metric("lengthwise_placements_total", reason="predicted ttft") == 6


async def test_latency_objectives_are_counted_as_met_and_missed(deploy: Deploy) -> None:
    deployment = await deploy(
        metrics_listen="127.0.0.1:0",
        objectives=Objectives(ttft_short_seconds=5.0, ttft_long_seconds=0.001, tpot_seconds=5.0),
    )
    await deployment.generate(max_tokens=5)
    await deployment.generate(prompt=[65] * 300, max_tokens=1)
    name = "lengthwise_slo_total"
    assert await deployment.metric(name, slo="ttft_short", met="true") == 1
    assert await deployment.metric(name, slo="ttft_short", met="false") == 0
    assert await deployment.metric(name, slo="ttft_long", met="false") == 1
    assert await deployment.metric(name, slo="tpot", met="true") == 1
    name = "lengthwise_good_requests_total"
    assert await deployment.metric(name, **SHORT) == 1
    assert await deployment.metric(name, **LONG) == 0


async def test_cached_prompts_are_counted(deploy: Deploy) -> None:
    deployment = await deploy(metrics_listen="127.0.0.1:0")
    deployment.prefill[0].num_cached_tokens = 12
    answer = await deployment.generate(max_tokens=5)
    assert answer.last.usage.cached_prompt_tokens == 12
    assert await deployment.metric("lengthwise_cached_prompt_tokens_total") == 12
    assert await deployment.metric("lengthwise_residual_ratio_sum") == 1 - 12 / len(PROMPT)


async def test_a_long_prompt_of_which_little_is_left_is_short(deploy: Deploy) -> None:
    deployment = await deploy(metrics_listen="127.0.0.1:0")
    deployment.prefill[0].num_cached_tokens = 288
    await deployment.generate(prompt=[65] * 300, max_tokens=5)
    for name in ("time_to_first_token", "time_per_output_token"):
        assert await deployment.metric(f"lengthwise_{name}_seconds_count", **SHORT) == 1
        assert await deployment.metric(f"lengthwise_{name}_seconds_count", **LONG) == 0


async def test_time_per_output_token_is_what_the_client_receives(deploy: Deploy) -> None:
    deployment = await deploy(metrics_listen="127.0.0.1:0")
    timings = (await deployment.generate(max_tokens=20)).last.timings
    name = "lengthwise_time_per_output_token_seconds_sum"
    assert (
        abs(await deployment.metric(name, **SHORT) - timings.time_per_output_token_seconds) < 1e-9
    )
    name = "lengthwise_time_to_first_token_seconds_sum"
    assert abs(await deployment.metric(name, **SHORT) - timings.time_to_first_token_seconds) < 1e-9


async def test_gaps_between_messages_are_measured(deploy: Deploy) -> None:
    deployment = await deploy(metrics_listen="127.0.0.1:0")
    answer = await deployment.generate(max_tokens=30)
    name = "lengthwise_inter_token_latency_seconds"
    assert await deployment.metric(f"{name}_count") == len(answer.messages) - 1
    timings = answer.last.timings
    decoding = timings.total_seconds - timings.time_to_first_token_seconds
    most = max(len(message.token_ids) for message in answer.messages)
    assert decoding / most <= await deployment.metric(f"{name}_sum") <= decoding


@pytest.mark.slow
async def test_retries_are_counted_by_phase_and_reason(deploy: Deploy) -> None:
    deployment = await deploy(metrics_listen="127.0.0.1:0", max_attempts=3)
    deployment.prefill[0].error = InternalError("a defect")
    await deployment.refused(max_tokens=5)
    deployment.prefill[0].error = None
    deployment.decode[0].drop_index = 3
    call = deployment.call(max_tokens=10)
    await eventually(lambda: len(deployment.prefill[0].requests) == 5)
    deployment.decode[0].drop_index = None
    assert [message async for message in call]
    retries = "lengthwise_retries_total"
    assert await deployment.metric(retries, phase="prefill", reason="rpc_error") == 3
    assert await deployment.metric(retries, phase="decode", reason="gap") >= 1
    requests = "lengthwise_requests_total"
    assert await deployment.metric(requests, code="UNAVAILABLE", model="stub") == 1
    assert await deployment.metric(requests, code="OK", model="stub") == 1


async def test_workers_are_counted_by_role_and_state(deploy: Deploy) -> None:
    deployment = await deploy(2, 3, metrics_listen="127.0.0.1:0")
    deployment.decode[0].draining = True
    await deployment.prefill[0].stop()
    fleet = deployment.app._fleet
    await eventually(lambda: sum(worker.condition == "lost" for worker in fleet.workers) == 1)
    await eventually(lambda: sum(worker.condition == "draining" for worker in fleet.workers) == 1)
    workers = "lengthwise_workers"
    assert await deployment.metric(workers, role="decode", state="ready") == 2
    assert await deployment.metric(workers, role="decode", state="draining") == 1
    assert await deployment.metric(workers, role="prefill", state="ready") == 1
    samples = await asyncio.to_thread(samples_of, deployment.app.metrics_address)
    down = [
        samples[workers, frozenset({("model", "stub"), ("role", "prefill"), ("state", state)})]
        for state in ("lost", "connecting")
    ]
    assert sum(down) == 1


async def test_a_model_that_is_not_served_makes_no_label(deploy: Deploy) -> None:
    deployment = await deploy(metrics_listen="127.0.0.1:0")
    await deployment.refused(model="x" * 50, max_tokens=1)
    name = "lengthwise_requests_total"
    assert await deployment.metric(name, code="NOT_FOUND", model="") == 1


async def test_tokenize_is_not_a_request(deploy: Deploy) -> None:
    deployment = await deploy(metrics_listen="127.0.0.1:0")
    await deployment.stub.Tokenize(
        inference_pb2.TokenizeRequest(prompt=inference_pb2.Prompt(text="hello"))
    )
    name = "lengthwise_requests_total"
    assert await deployment.metric(name, code="OK", model="stub") == 0


async def test_what_arrives_is_counted_before_it_is_admitted(deploy: Deploy) -> None:
    deployment = await deploy(metrics_listen="127.0.0.1:0", max_requests_in_flight=1, max_queued=0)
    deployment.prefill[0].hangs = True
    call = deployment.call(max_tokens=5)
    await eventually(lambda: deployment.prefill[0].running)
    await deployment.refused(prompt=[65] * 300, max_tokens=5)  # there is no room for it
    await deployment.refused(max_tokens=0)  # never a request that anybody could serve
    call.cancel()
    metric = deployment.metric
    assert await metric("lengthwise_arrived_requests_total", **SHORT) == 1
    assert await metric("lengthwise_arrived_tokens_total", **SHORT) == len(PROMPT)
    assert await metric("lengthwise_arrived_requests_total", **LONG) == 1
    assert await metric("lengthwise_arrived_tokens_total", **LONG) == 300
    assert await metric("lengthwise_refusals_total", reason="queue full") == 1


async def test_demand_is_what_no_worker_has_cached(deploy: Deploy) -> None:
    deployment = await deploy(metrics_listen="127.0.0.1:0")
    prompt = [65] * 320
    worker = deployment.decode[0]
    hashes = block_hashes(prompt, 16, worker.fingerprint.encode())
    worker.blocks = [short_hash(each) for each in hashes[:6]]
    await eventually(lambda: deployment.served.workers.prefixes._distinct)
    await deployment.generate(prompt=prompt, max_tokens=2)
    assert await deployment.metric("lengthwise_arrived_tokens_total", **SHORT) == 320 - 6 * 16
    assert await deployment.metric("lengthwise_arrived_requests_total", **LONG) == 0


async def test_length_classes_of_demand_part_where_prefill_workers_say(deploy: Deploy) -> None:
    deployment = await deploy(3, 1, metrics_listen="127.0.0.1:0")
    for worker, boundary in zip(deployment.prefill, (64, 310, 900), strict=True):
        worker.status = {"short_tokens": boundary}
    await eventually(lambda: deployment.served.workers.short_tokens == 310)
    await deployment.generate(prompt=[65] * 310, max_tokens=2)
    await deployment.generate(prompt=[66] * 311, max_tokens=2)
    assert await deployment.metric("lengthwise_arrived_tokens_total", **SHORT) == 310
    assert await deployment.metric("lengthwise_arrived_tokens_total", **LONG) == 311


async def test_without_prefill_workers_length_classes_part_where_decode_workers_say(
    deploy: Deploy,
) -> None:
    deployment = await deploy(1, 1, local_prefill=True)
    deployment.decode[0].status = {"short_tokens": 99}
    await deployment.prefill[0].stop()
    await eventually(lambda: deployment.served.workers.short_tokens == 99)


async def test_nothing_counted_yet_is_reported_as_zero(deploy: Deploy) -> None:
    deployment = await deploy(metrics_listen="127.0.0.1:0", max_attempts=2)
    before = await deployment.series()
    deployment.prefill[0].error = InternalError("a defect")
    await deployment.refused(max_tokens=5)
    deployment.prefill[0].error = None
    await deployment.generate(max_tokens=5)
    await deployment.generate(prompt=[65] * 300, max_tokens=2)
    await deployment.refused(max_tokens=0)
    assert await deployment.series() == before


async def test_discovered_workers_are_counted(deploy: Deploy) -> None:
    deployment = await deploy(2, 1, metrics_listen="127.0.0.1:0")
    assert await deployment.metric("lengthwise_discovered_workers") == 3
