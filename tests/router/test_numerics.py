"""What invariant workers of one numerics have begun, no others go on with: its tokens would be
others."""

from collections.abc import Sequence

import pytest
from harness.stub_worker import StubWorker
from harness.waiting import eventually
from router.deployment import PROMPT, Deploy, Deployment
from router.stub_workers import stub_answer

from lengthwise_wire.capabilities import CAPABILITIES, numerics_capability

NUM_TOKENS = 40


async def _compute_as(deployment: Deployment, numerics: dict[str, Sequence[StubWorker]]) -> None:
    """These workers are invariant under these names; an empty one is fast."""
    for name, workers in numerics.items():
        for worker in workers:
            worker.fingerprint = f"weights {name}"
            worker.capabilities = [*CAPABILITIES, *numerics_capability(name)]
            await worker.stop()
            await worker.restart()
    expected = {worker.worker_id for workers in numerics.values() for worker in workers}
    await eventually(lambda: set(deployment.usable()) == expected, 5.0)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["b", ""], ids=["another invariant", "fast"])
@pytest.mark.parametrize("local_prefill", [False, True])
async def test_an_answer_that_has_begun_goes_on_at_a_worker_that_computes_alike(
    deploy: Deploy, local_prefill: bool, other: str
) -> None:
    deployment = await deploy(
        0 if local_prefill else 2,
        4,
        local_prefill=local_prefill,
        strategy="round_robin",
        no_worker_seconds=5.0,
    )
    prefill, (first, second, *others) = deployment.prefill, deployment.decode
    alike, different = [*prefill[:1], first, second], [*prefill[1:], *others]
    await _compute_as(deployment, {"a": alike, other: different})
    first.break_at = 5
    for _ in range(6):
        answer = await deployment.generate(max_tokens=NUM_TOKENS)
        assert answer.token_ids == stub_answer(PROMPT, NUM_TOKENS)
    begun = {reserve.request_id for reserve in first.reserves}
    assert begun & {reserve.request_id for reserve in second.reserves}
    for worker in others:
        assert not begun & {reserve.request_id for reserve in worker.reserves}


@pytest.mark.slow
async def test_an_answer_fails_rather_than_go_on_with_other_tokens(deploy: Deploy) -> None:
    deployment = await deploy(1, 2)
    first, second = deployment.decode
    await _compute_as(deployment, {"a": [*deployment.prefill, first], "b": [second]})
    call = aiter(deployment.call(max_tokens=400))
    assert (await anext(call)).token_ids
    await first.stop()
    with pytest.raises(Exception, match="no decode worker supports numerics a"):
        async for _ in call:
            pass
    assert not second.reserves
