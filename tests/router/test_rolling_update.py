"""Two versions of workers side by side: requests go only to workers that can do what they need."""

import pytest
from harness.waiting import eventually
from router.deployment import Deploy, Deployment

from lengthwise_wire.v1 import common_pb2, inference_pb2

MIN_TOKENS = common_pb2.SamplingParams(min_tokens=2)
BIAS = common_pb2.SamplingParams(logit_bias={7: 1.0})
PLAIN = common_pb2.SamplingParams()


async def _old(deployment: Deployment, *, prefill: int, decode: int, has: str = "") -> None:
    """The first so many of each role are older, and `has` is all that they can do."""
    old = [*deployment.prefill[:prefill], *deployment.decode[:decode]]
    for worker in old:
        worker.capabilities = [has] if has else []
    ids = {worker.worker_id for worker in old}
    fleet = deployment.served.workers

    def seen() -> bool:
        views = [view for side in fleet.views() for view in side if view.worker_id in ids]
        return len(views) == len(ids) and all(len(view.capabilities) < 2 for view in views)

    await eventually(seen)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["predicted_ttft", "round_robin", "least_loaded", "prefix"])
@pytest.mark.parametrize("local_prefill", [False, True])
async def test_requests_reach_only_workers_that_understand_them(
    deploy: Deploy, strategy: str, local_prefill: bool
) -> None:
    deployment = await deploy(2, 2, strategy=strategy, local_prefill=local_prefill)
    await _old(deployment, prefill=1, decode=1)
    for _ in range(6):
        await deployment.generate(max_tokens=3, sampling=MIN_TOKENS)
        await deployment.generate(max_tokens=3, sampling=BIAS)
        await deployment.generate(max_tokens=3, constraint=common_pb2.Constraint(regex="a+"))
    old_prefill, new_prefill = deployment.prefill
    old_decode, new_decode = deployment.decode
    assert not old_prefill.requests
    assert not old_decode.reserves
    assert len(new_decode.reserves) == 18
    assert len(new_prefill.requests) == (0 if local_prefill and not new_prefill.requests else 18)


async def test_plain_requests_reach_both_versions(deploy: Deploy) -> None:
    deployment = await deploy(2, 2, strategy="round_robin")
    await _old(deployment, prefill=1, decode=1)
    for _ in range(4):
        await deployment.generate(max_tokens=3, sampling=PLAIN)
    assert [len(worker.requests) for worker in deployment.prefill] == [2, 2]
    assert [len(worker.reserves) for worker in deployment.decode] == [2, 2]


async def test_the_reason_names_what_others_lack(deploy: Deploy) -> None:
    deployment = await deploy(2, 2)
    await _old(deployment, prefill=1, decode=1, has="logit_bias")
    await deployment.generate(max_tokens=3, sampling=MIN_TOKENS, request_id="mine")
    explained = await deployment.stub.Explain(inference_pb2.ExplainRequest(request_id="mine"))
    assert explained.attempts[0].placement_reason.endswith("; 2 workers lack min_tokens")
    await deployment.generate(max_tokens=3, sampling=BIAS, request_id="other")
    explained = await deployment.stub.Explain(inference_pb2.ExplainRequest(request_id="other"))
    assert "lack" not in explained.attempts[0].placement_reason


@pytest.mark.slow
@pytest.mark.parametrize(("prefill", "decode", "role"), [(2, 0, "prefill"), (0, 2, "decode")])
async def test_a_request_that_no_worker_understands_is_refused_by_name(
    deploy: Deploy, prefill: int, decode: int, role: str
) -> None:
    deployment = await deploy(2, 2)
    await _old(deployment, prefill=prefill, decode=decode, has="logit_bias")
    error = await deployment.refused(max_tokens=3, sampling=MIN_TOKENS)
    assert error.code().name == "UNIMPLEMENTED"
    assert error.trailing_metadata()["lengthwise-error"] == "NotSupported"
    assert f"no {role} worker supports min_tokens" in error.details()
    assert "waited 0.6 s" in error.details()
    await deployment.generate(max_tokens=3, sampling=PLAIN)
    await deployment.generate(max_tokens=3, sampling=BIAS)


async def test_a_new_worker_that_comes_in_time_takes_the_request(deploy: Deploy) -> None:
    deployment = await deploy(1, 2, no_worker_seconds=5.0)
    await _old(deployment, prefill=0, decode=2)
    call = deployment.call(max_tokens=3, sampling=MIN_TOKENS)
    await eventually(lambda: deployment.in_flight == 1)
    deployment.decode[1].capabilities = ["min_tokens"]
    messages = [message async for message in call]
    assert messages[-1].finish_reason == common_pb2.FINISH_REASON_LENGTH
    assert not deployment.decode[0].reserves


async def test_an_old_prefill_worker_is_passed_over_for_a_new_decode_worker(deploy: Deploy) -> None:
    deployment = await deploy(1, 1, local_prefill=True)
    await _old(deployment, prefill=1, decode=0)
    await deployment.generate(max_tokens=3, sampling=MIN_TOKENS)
    assert not deployment.prefill[0].requests
    assert [reserve.local for reserve in deployment.decode[0].reserves] == [True]


@pytest.mark.slow
async def test_min_tokens_survive_the_loss_of_the_only_new_worker(deploy: Deploy) -> None:
    """What remains is too old: the request fails rather than end too early."""
    deployment = await deploy(1, 2)
    await _old(deployment, prefill=0, decode=1)
    deployment.decode[1].break_at = 1
    deployment.decode[1].reserve_error = None
    call = deployment.call(max_tokens=400, sampling=MIN_TOKENS)
    await eventually(lambda: bool(deployment.decode[1].held))
    await deployment.decode[1].stop()
    with pytest.raises(Exception, match="no decode worker supports min_tokens"):
        async for _ in call:
            pass
    assert not deployment.decode[0].reserves


async def test_a_salt_reaches_only_workers_that_know_salts(deploy: Deploy) -> None:
    deployment = await deploy(2, 2)
    await _old(deployment, prefill=1, decode=1, has="min_tokens")
    for _ in range(4):
        await deployment.generate(max_tokens=3, cache_salt="a secret")
    assert not deployment.prefill[0].requests
    assert not deployment.decode[0].reserves
    salts = {each.cache_salt for each in deployment.decode[1].reserves}
    assert salts == {each.cache_salt for each in deployment.prefill[1].requests}
    assert len(salts) == 1
    assert b"a secret" not in salts.pop()
