"""`model: NAME:ADAPTER` is placed where the adapter is held, and computed with it from its first
token to its last."""

from collections.abc import Sequence

import grpc
import pytest
from harness.stub_worker import MODEL
from harness.waiting import eventually
from router.deployment import Deploy, Deployment
from router.test_request_log import facts, lines

from lengthwise_policy.kv.prefix_cache import block_hashes, short_hashes
from lengthwise_policy.kv.salts import block_salt
from lengthwise_router.config import DiscoveryConfig
from lengthwise_router.serving.models.served_models import ServedModels
from lengthwise_wire.capabilities import CAPABILITIES, adapter_capability, held_adapters
from lengthwise_wire.errors import InvalidRequest, ModelNotFound
from lengthwise_wire.v1 import inference_pb2

FIRST = "first@0123456789abcdef"
OLD, NEW = "second@00000000000000aa", "second@00000000000000bb"


async def _hold(deployment: Deployment, *held: Sequence[str]) -> None:
    """Each worker of the deployment has these, and the router has heard of it."""
    for worker, keys in zip(deployment.workers, held, strict=True):
        worker.capabilities = [*CAPABILITIES, *map(adapter_capability, keys)]
    pairs = zip(deployment.workers, held, strict=True)
    expected = {worker.worker_id: sorted(keys) for worker, keys in pairs}

    def has_heard() -> bool:
        views = [view for views in deployment.served.workers.views() for view in views]
        return {
            view.worker_id: sorted(held_adapters(view.capabilities)) for view in views
        } == expected

    await eventually(has_heard)


async def test_a_request_goes_where_its_adapter_is_and_others_anywhere(deploy: Deploy) -> None:
    deployment = await deploy(2, 2)
    await _hold(deployment, [FIRST], [], [], [FIRST])
    for _ in range(4):
        await deployment.generate(model=f"{MODEL}:first", max_tokens=4)
        await deployment.generate(model=MODEL, max_tokens=4)
    prefill, decode = deployment.prefill, deployment.decode
    assert {request.adapter for request in prefill[1].requests} <= {""}
    assert sum(request.adapter == FIRST for request in prefill[0].requests) == 4
    assert {request.adapter for request in decode[0].reserves} <= {""}
    assert sum(request.adapter == FIRST for request in decode[1].reserves) == 4


async def test_of_two_versions_that_of_most_workers_counts_in_both_phases(deploy: Deploy) -> None:
    deployment = await deploy(1, 2)
    await _hold(deployment, [NEW], [OLD], [NEW])
    await deployment.generate(model=f"{MODEL}:second", max_tokens=4)
    assert [request.adapter for request in deployment.prefill[0].requests] == [NEW]
    assert [request.adapter for request in deployment.decode[1].reserves] == [NEW]


async def test_an_adapter_that_no_worker_holds_is_not_found(deploy: Deploy) -> None:
    deployment = await deploy()
    await _hold(deployment, [FIRST], [FIRST])
    for name in (f"{MODEL}:third", f"{MODEL}:", "other:first"):
        error = await deployment.refused(model=name)
        assert error.code() is grpc.StatusCode.NOT_FOUND
    assert (
        "got adapter 'third', the workers of 'stub' hold first"
        in (await deployment.refused(model=f"{MODEL}:third")).details()
    )


async def test_before_workers_are_known_callers_are_told_to_ask_again(deploy: Deploy) -> None:
    """As after a router's restart: a client gives up at once where a model is not found."""
    deployment = await deploy(0, 0, discovery=DiscoveryConfig(endpoints=("127.0.0.1:1",)))
    assert (await deployment.refused(model=f"{MODEL}:first")).code() is grpc.StatusCode.UNAVAILABLE


async def test_adapters_are_listed_with_fingerprints_of_their_own(deploy: Deploy) -> None:
    deployment = await deploy()
    await _hold(deployment, [FIRST, NEW], [FIRST, NEW])
    listed = await deployment.stub.ListModels(inference_pb2.ListModelsRequest())
    assert [(model.model, model.model_fingerprint) for model in listed.models] == [
        (MODEL, "weights"),
        (f"{MODEL}:first", f"weights:{FIRST}"),
        (f"{MODEL}:second", f"weights:{NEW}"),
    ]
    asked = inference_pb2.GetModelRequest(model=f"{MODEL}:first")
    assert await deployment.stub.GetModel(asked) == listed.models[1]


async def test_a_prefix_is_looked_for_under_the_adapters_own_names(deploy: Deploy) -> None:
    """A worker that has a prompt's blocks with an adapter has none of them for the base."""
    deployment = await deploy(2, 1)
    prompt = list(range(1, 49))
    salt = block_salt("weights", b"", FIRST)
    deployment.prefill[0].blocks = list(short_hashes(block_hashes(prompt, 16, salt)))
    await _hold(deployment, [FIRST], [FIRST], [FIRST])
    prefixes, models = deployment.served.workers.prefixes, (MODEL, f"{MODEL}:first")
    await eventually(lambda: bool(prefixes._namings))
    residuals = []
    for model in models:
        answer = await deployment.generate(model=model, prompt=prompt, max_tokens=2)
        asked = inference_pb2.ExplainRequest(request_id=answer.messages[0].request_id)
        attempt = (await deployment.stub.Explain(asked)).attempts[0]
        residuals.append(min(each.residual_tokens for each in attempt.candidates))
    assert residuals == [48, 16]


async def test_what_is_remembered_and_logged_of_a_request_names_its_adapter(
    deploy: Deploy, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it is asked about by the model's name, or with the adapter's, or by none."""
    caplog.set_level("INFO")
    deployment = await deploy()
    await _hold(deployment, [FIRST], [FIRST])
    for model in (f"{MODEL}:first", MODEL):
        answer = await deployment.generate(model=model, max_tokens=2)
        request_id = answer.messages[0].request_id
        for named in ("", MODEL, f"{MODEL}:first"):
            asked = inference_pb2.ExplainRequest(request_id=request_id, model=named)
            assert (await deployment.stub.Explain(asked)).model == model
    await eventually(lambda: len(lines(caplog)) == 2)
    assert {facts(line)["model"] for line in lines(caplog)} == {f"{MODEL}:first", MODEL}


@pytest.mark.parametrize(
    ("names", "found", "lost"),
    [
        (None, ["", MODEL, f"{MODEL}:first"], ["other"]),
        ([MODEL], ["", MODEL, f"{MODEL}:first"], ["other"]),
        ([f"{MODEL}:first"], [f"{MODEL}:first"], [MODEL, f"{MODEL}:second"]),
        (["other"], [], [MODEL, f"{MODEL}:first"]),
    ],
)
async def test_a_key_allows_a_model_with_its_adapters_or_one_of_them(
    names: list[str] | None, found: list[str], lost: list[str], deploy: Deploy
) -> None:
    served = (await deploy()).app._models
    allowed: ServedModels = served.among(names)
    assert {allowed.find(name).name for name in found} <= {MODEL}
    for name in lost:
        with pytest.raises(ModelNotFound):
            allowed.find(name)


async def test_a_key_for_one_adapter_lists_it_alone_and_has_to_name_it(deploy: Deploy) -> None:
    allowed = (await deploy()).app._models.among([f"{MODEL}:first"])
    assert [allowed.allows(name) for name in (MODEL, f"{MODEL}:first")] == [False, True]
    with pytest.raises(InvalidRequest, match=r"model: got none, expected one of 'stub:first'$"):
        allowed.find("")
