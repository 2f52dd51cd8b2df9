"""API keys over gRPC: who may call, as which tenant, and how much."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from harness.waiting import eventually
from router.deployment import PROMPT, Deploy, Deployment, request
from router.keys.keys import entry, write

import lengthwise
from lengthwise_router.config import KeysConfig
from lengthwise_wire.v1 import inference_pb2 as pb

Metadata = tuple[tuple[str, str], ...]

UNARY: dict[str, Any] = {
    "GetModel": pb.GetModelRequest(),
    "ListModels": pb.ListModelsRequest(),
    "Tokenize": pb.TokenizeRequest(prompt=request().prompt),
    "Explain": pb.ExplainRequest(request_id="r"),
    "GetStatus": pb.GetStatusRequest(),
}

Keyed = Callable[..., Awaitable[Deployment]]


@pytest.fixture
def keyed(deploy: Deploy, tmp_path: Path) -> Keyed:
    """`await keyed(*entries, **config)` deploys with these keys."""

    async def start(*entries: dict[str, Any], **config: Any) -> Deployment:
        file = write(tmp_path / "keys.yaml", *entries)
        options = {"keys": KeysConfig(file=file), "metrics_listen": "127.0.0.1:0", **config}
        return await deploy(**options)

    return start


def bearer(key: str) -> Metadata:
    return (("authorization", f"Bearer {key}"),)


async def generate(deployment: Deployment, name: str, **fields: Any) -> list[pb.GenerateResponse]:
    call = deployment.stub.Generate(request(**fields), timeout=10, metadata=bearer(f"lw-{name}"))
    return [message async for message in call]


async def refused(call: Any) -> grpc.aio.AioRpcError:
    """The error that a call ends with, of one response or of many."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (read_all(call) if hasattr(call, "read") else call)
    return caught.value


async def read_all(call: Any) -> int:
    """How many tokens came."""
    num_tokens = 0
    while (message := await call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
        num_tokens += len(message.token_ids)
    return num_tokens


def retry_after(error: grpc.aio.AioRpcError) -> float:
    trailing: Any = error.trailing_metadata()
    return float(dict(trailing)["lengthwise-retry-after"])


def test_no_method_is_forgotten() -> None:
    methods = pb.DESCRIPTOR.services_by_name["Inference"].methods_by_name
    assert {*UNARY, "Generate"} == set(methods)


@pytest.mark.parametrize("method", ["Generate", *UNARY])
async def test_no_method_answers_without_a_key(keyed: Keyed, method: str) -> None:
    deployment = await keyed(entry("alice"), entry("bob"))
    ask = getattr(deployment.stub, method)
    for metadata in (
        (),
        bearer("lw-nobody"),
        bearer(""),
        bearer("lw-alice lw-alice"),
        (("authorization", "lw-alice"),),
        (("authorization", "Basic lw-alice"),),
        (("x-api-key", "lw-alice"),),
        (*bearer("lw-alice"), *bearer("lw-alice")),
        (*bearer("lw-alice"), *bearer("lw-bob")),
        bearer("lw-alicf"),
        bearer("LW-ALICE"),
        bearer("%00~!"),
    ):
        error = await refused(ask(UNARY.get(method, request()), metadata=metadata, timeout=10))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED, metadata
        assert "lw-" not in (error.details() or ""), metadata
    assert not deployment.decode[0].reserves


async def test_the_scheme_may_be_written_in_any_case(keyed: Keyed) -> None:
    deployment = await keyed(entry("alice"))
    for text in ("bearer lw-alice", "BEARER lw-alice", "Bearer   lw-alice"):
        metadata = (("authorization", text),)
        response = await deployment.stub.GetModel(pb.GetModelRequest(), metadata=metadata)
        assert response.model


async def test_a_header_of_a_megabyte_costs_one_call(keyed: Keyed) -> None:
    deployment = await keyed(entry("alice"))
    error = await refused(
        deployment.stub.GetModel(pb.GetModelRequest(), metadata=bearer("x" * (1 << 20)), timeout=10)
    )
    assert error.code() is not grpc.StatusCode.OK
    assert (await generate(deployment, "alice", max_tokens=2))[-1].finish_reason


async def test_health_and_reflection_are_open(keyed: Keyed) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    deployment = await keyed(entry("alice"))
    async with grpc.aio.insecure_channel(str(deployment.app.address)) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [each async for each in reflection.ServerReflectionInfo(iter([asked]))]
        assert answers[0].list_services_response.service


async def test_a_key_is_a_tenant_and_none_other(keyed: Keyed) -> None:
    deployment = await keyed(entry("alice"), entry("bob"))
    await generate(deployment, "alice", max_tokens=2, request_id="r")
    await generate(deployment, "alice", max_tokens=2, request_id="r2", tenant="alice")
    call = deployment.stub.Generate(request(tenant="bob"), metadata=bearer("lw-alice"))
    error = await refused(call)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "tenant: got 'bob', expected none or 'alice'" in (error.details() or "")
    explain = deployment.stub.Explain
    asked = pb.ExplainRequest(request_id="r")
    assert (await explain(asked, metadata=bearer("lw-alice"))).output_tokens == 2
    error = await refused(explain(asked, metadata=bearer("lw-bob")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    await generate(deployment, "bob", max_tokens=2)
    salts = [each.cache_salt for each in deployment.decode[0].reserves]
    assert len(set(salts)) == 2, "what is cached is each tenant's own"
    assert salts[0] == salts[1] != b""


async def test_a_gateways_key_speaks_for_others(keyed: Keyed) -> None:
    deployment = await keyed(entry("gate"), entry("alice"), gateways=("gate",))
    for tenant in ("", "alice", "carol"):
        await generate(deployment, "gate", max_tokens=2, tenant=tenant)
    await generate(deployment, "alice", max_tokens=2)
    salts = {each.cache_salt for each in deployment.decode[0].reserves}
    assert len(salts) == 4, "its alice is not the holder of a key"


async def test_only_an_admin_sees_the_status_and_every_explanation(keyed: Keyed) -> None:
    deployment = await keyed(entry("alice"), entry("root", admin=True))
    await generate(deployment, "alice", max_tokens=2, request_id="r")
    error = await refused(
        deployment.stub.GetStatus(UNARY["GetStatus"], metadata=bearer("lw-alice"))
    )
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    status = await deployment.stub.GetStatus(UNARY["GetStatus"], metadata=bearer("lw-root"))
    assert status.num_workers == 2
    asked = pb.ExplainRequest(request_id="r", tenant="alice")
    explanation = await deployment.stub.Explain(asked, metadata=bearer("lw-root"))
    assert explanation.output_tokens == 2
    error = await refused(
        deployment.stub.Explain(
            pb.ExplainRequest(request_id="r", tenant="root"), metadata=bearer("lw-alice")
        )
    )
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_key_says_the_most_and_the_usual_priority(keyed: Keyed) -> None:
    deployment = await keyed(entry("high", priority=10), entry("low", priority=-5), entry("plain"))
    for name, asked, expected in (
        ("high", 0, 10),
        ("high", 10, 10),
        ("high", -3, -3),
        ("low", 0, -5),
        ("low", -9, -9),
        ("plain", 0, 0),
        ("plain", -1, -1),
        ("high", 11, None),
        ("low", -4, None),
        ("low", 1, None),
        ("plain", 1, None),
    ):
        fields: dict[str, Any] = {"priority": asked, "max_tokens": 1, "request_id": "p"}
        if expected is None:
            call = deployment.stub.Generate(request(**fields), metadata=bearer(f"lw-{name}"))
            error = await refused(call)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert f"priority: got {asked}, expected at most" in (error.details() or "")
        else:
            await generate(deployment, name, **fields)
            explained = await deployment.stub.Explain(
                pb.ExplainRequest(request_id="p"), metadata=bearer(f"lw-{name}")
            )
            assert explained.priority == expected


async def test_models_of_others_are_not_found(keyed: Keyed) -> None:
    deployment = await keyed(entry("none", models=[]), entry("other", models=["another"]))
    for name in ("none", "other"):
        metadata = bearer(f"lw-{name}")
        listed = await deployment.stub.ListModels(UNARY["ListModels"], metadata=metadata)
        assert not listed.models
        for model in ("", "stub", "another"):
            asked = pb.GetModelRequest(model=model)
            error = await refused(deployment.stub.GetModel(asked, metadata=metadata))
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert "serves none that this API key may use" in (error.details() or "")
            error = await refused(deployment.stub.Generate(request(model=model), metadata=metadata))
            assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_limits_refuse_what_would_begin_and_cut_nothing(keyed: Keyed) -> None:
    deployment = await keyed(
        entry("few", requests_per_minute=2),
        entry("short", tokens_per_minute=20),
        entry("one", max_concurrent=1),
    )
    for _ in range(2):
        await generate(deployment, "few", max_tokens=2)
    error = await refused(deployment.stub.Generate(request(), metadata=bearer("lw-few")))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 25 < retry_after(error) <= 30

    answer = await generate(deployment, "short", max_tokens=50)
    assert answer[-1].usage.output_tokens == 50, "what has begun is never cut"
    error = await refused(deployment.stub.Generate(request(), metadata=bearer("lw-short")))
    assert "20 tokens a minute are used up" in (error.details() or "")
    owed = len(PROMPT) + 50 - 20 + 1
    assert retry_after(error) == pytest.approx(3 * owed, abs=5)

    first = deployment.stub.Generate(request(max_tokens=400), metadata=bearer("lw-one"))
    await first.read()
    error = await refused(deployment.stub.Generate(request(), metadata=bearer("lw-one")))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    first.cancel()
    await eventually(lambda: not deployment.in_flight)
    await generate(deployment, "one", max_tokens=2)
    assert await deployment.metric("lengthwise_key_refusals_total", reason="concurrent") == 1
    assert await deployment.metric("lengthwise_key_refusals_total", reason="requests") == 1


async def test_routers_share_the_limits(keyed: Keyed, tmp_path: Path) -> None:
    config = KeysConfig(file=tmp_path / "keys.yaml", router_replicas=3)
    deployment = await keyed(entry("few", requests_per_minute=6), keys=config)
    for _ in range(2):
        await generate(deployment, "few", max_tokens=1)
    await refused(deployment.stub.Generate(request(), metadata=bearer("lw-few")))


@pytest.mark.slow
async def test_a_key_that_is_removed_finishes_what_it_began(keyed: Keyed, tmp_path: Path) -> None:
    deployment = await keyed(entry("alice", max_concurrent=5), step_seconds=0.03)
    call = deployment.stub.Generate(request(max_tokens=100), metadata=bearer("lw-alice"))
    tokens = len((await call.read()).token_ids)
    write(tmp_path / "keys.yaml", entry("bob"))
    keyring = deployment.app._keyring
    assert keyring is not None
    await eventually(lambda: "bob" in keyring._held.by_name, 10.0)
    error = await refused(deployment.stub.GetModel(UNARY["GetModel"], metadata=bearer("lw-alice")))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    await deployment.stub.GetModel(UNARY["GetModel"], metadata=bearer("lw-bob"))
    assert tokens + await read_all(call) == 100


async def test_the_sdk_sends_its_key(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = await keyed(entry("alice", requests_per_minute=1))
    address = str(deployment.app.address)
    async with lengthwise.AsyncClient(address, api_key="lw-alice") as client:
        assert (await client.generate(list(PROMPT), max_tokens=2)).token_ids
        assert "lw-alice" not in repr(client)
        with pytest.raises(lengthwise.LimitExceeded, match="1 requests a minute") as caught:
            await client.generate(list(PROMPT), max_tokens=2, timeout=lengthwise.Timeout(total=1.0))
        assert caught.value.retry_after_seconds is not None

    def names() -> list[str]:
        with lengthwise.Client(address) as plain:
            return [model.name for model in plain.models()]

    with pytest.raises(lengthwise.Unauthenticated, match="got none"):
        await asyncio.to_thread(names)
    monkeypatch.setenv("LENGTHWISE_API_KEY", "lw-alice")
    assert await asyncio.to_thread(names)
    monkeypatch.setenv("LENGTHWISE_API_KEY", "")
    with pytest.raises(lengthwise.Unauthenticated, match="got none"):
        await asyncio.to_thread(names)
    for key in ("", "a b", "schlüssel", "x\n", "x" * 2000):
        with pytest.raises(lengthwise.InvalidRequest, match="api_key: expected 1 to") as caught_:
            lengthwise.Client(address, api_key=key)
        assert not key or key not in str(caught_.value)
