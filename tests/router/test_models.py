"""A router that serves several models: none is taken for another, and none waits for another."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import grpc
import pytest
from harness.waiting import eventually
from router.deployment import PROMPT, Deployment, deployed
from router.stub_workers import StubDecode, StubPrefill, StubWorker, stub_answer

import lengthwise
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_policy.kv.prefix_cache import block_hashes, short_hash
from lengthwise_policy.objectives import Objectives
from lengthwise_router.config import DiscoveryConfig, RouterConfig, ServedModelConfig
from lengthwise_runtime.config import ConfigError
from lengthwise_wire.v1 import inference_pb2


class Serve(Protocol):
    """Starts a router for some models, each with a prefill and a decode worker unless absent."""

    async def __call__(
        self, *names: str, absent: Sequence[str] = (), **config: Any
    ) -> Deployment: ...


@pytest.fixture
async def serve(stub_checkpoint: Path) -> AsyncIterator[Serve]:
    """Workers are in the order of the names."""
    async with AsyncExitStack() as stack:

        async def start(*names: str, absent: Sequence[str] = (), **config: Any) -> Deployment:
            decode = [StubDecode(model=name) for name in names if name not in absent]
            prefill = [StubPrefill([each], model=each.model) for each in decode]
            for worker in (*prefill, *decode):
                await worker.start()
                stack.push_async_callback(worker.stop)
            models = tuple(
                ServedModelConfig(model=str(stub_checkpoint), served_name=name) for name in names
            )
            endpoints = tuple(worker.address for worker in (*prefill, *decode))
            options = {
                "model": "",
                "models": models,
                "metrics_listen": "127.0.0.1:0",
                "discovery": DiscoveryConfig(endpoints=endpoints or ("127.0.0.1:1",)),
                **config,
            }
            deployment = await stack.enter_async_context(
                deployed(stub_checkpoint, 0, 0, 0.002, options)
            )
            deployment.prefill.extend(prefill)
            deployment.decode.extend(decode)
            await deployment.ready()
            return deployment

        yield start


async def test_a_request_goes_to_its_models_workers_alone(serve: Serve) -> None:
    deployment = await serve("a", "b")
    for name, count in (("a", 3), ("b", 2)):
        for _ in range(count):
            answer = await deployment.generate(model=name, max_tokens=6)
            assert answer.token_ids == stub_answer(PROMPT, 6)
    assert [len(worker.requests) for worker in deployment.prefill] == [3, 2]
    assert [len(worker.reserves) for worker in deployment.decode] == [3, 2]


NO_MODELS = [
    ("", "INVALID_ARGUMENT", "model: got none, expected one of 'a', 'b/c d'"),
    ("x", "NOT_FOUND", "got 'x', this router serves 'a', 'b/c d'"),
    ("A", "NOT_FOUND", "got 'A', this router serves 'a', 'b/c d'"),
    ("a ", "NOT_FOUND", "got 'a ', this router serves"),
    ("b", "NOT_FOUND", "got 'b', this router serves"),
    ("x" * 9_000, "NOT_FOUND", "got 9000 characters, this router"),
    ("\n\x00", "NOT_FOUND", r"got '\\n\\x00', this router"),
]


async def test_a_name_that_is_no_models_is_refused_with_those_served(serve: Serve) -> None:
    deployment = await serve("b/c d", "a")
    text = inference_pb2.Prompt(text="hello")
    codes = Counter[str]()
    for name, code, message in NO_MODELS:
        codes[code] += 1
        calls = [
            deployment.generate(model=name, max_tokens=1),
            deployment.stub.Tokenize(inference_pb2.TokenizeRequest(model=name, prompt=text)),
            deployment.stub.GetModel(inference_pb2.GetModelRequest(model=name)),
        ]
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError, match=message) as caught:
                await call
            assert caught.value.code().name == code
        requests = "lengthwise_requests_total"
        assert await deployment.metric(requests, code=code, model="") == codes[code]
        assert await deployment.metric(requests) == codes.total()


async def test_a_refusal_lists_no_more_names_than_a_status_holds(serve: Serve) -> None:
    names = [f"{number:03}" + "ü" * 120 for number in range(25)]
    deployment = await serve(*names, absent=names)
    error = await deployment.refused(model="x", max_tokens=1)
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert error.details().endswith(" and 5 more")


async def test_models_describe_themselves(serve: Serve) -> None:
    deployment = await serve("b", "a")
    deployment.decode[0].blocks_total = 7
    await eventually(lambda: deployment.app._fleet.models["b"].capacity_tokens == 7 * 16)
    address = str(deployment.app.address)
    async with lengthwise.AsyncClient(address) as client:
        models = await client.models(timeout=5)
        assert [(model.name, model.capacity_tokens) for model in models] == [
            ("a", 16_000), ("b", 112)
        ]  # fmt: skip
        assert await client.model("b", timeout=5) == models[1]
        assert await client.tokenize("hi", model="a", timeout=5) == [104, 105]
        with pytest.raises(lengthwise.errors.InvalidRequest, match="expected one of 'a', 'b'"):
            await client.model(timeout=5)
    async with lengthwise.AsyncClient(address, model="b") as client:
        assert (await client.model(timeout=5)).name == "b"
        await client.generate(list(PROMPT), max_tokens=2, timeout=5)
        await client.generate(list(PROMPT), max_tokens=2, model="a", timeout=5)
    assert [len(worker.reserves) for worker in deployment.decode] == [1, 1]


async def test_a_model_without_workers_holds_no_other_up(serve: Serve) -> None:
    deployment = await serve("a", "b", absent=["b"], no_worker_seconds=5.0, max_queued=0,
                             max_requests_in_flight=2)  # fmt: skip
    waiting = [deployment.call(model="b", max_tokens=2) for _ in range(2)]
    await eventually(lambda: deployment.app._models.find("b").gate.in_flight == 2)
    full = await deployment.refused(model="b", max_tokens=2)
    assert full.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    for _ in range(3):
        answer = await deployment.generate(model="a", max_tokens=6)
        assert answer.token_ids == stub_answer(PROMPT, 6)
    for call in waiting:
        call.cancel()


async def test_a_model_without_workers_is_refused_in_bounded_time(serve: Serve) -> None:
    deployment = await serve("a", "b", absent=["b"], no_worker_seconds=0.3)
    refusal = await deployment.refused(model="b", max_tokens=2)
    assert refusal.code() == grpc.StatusCode.UNAVAILABLE
    # Both of a's workers are known to be a's: nothing is left to wait for.
    long = await deployment.refused(model="a", prompt=[65] * 400, max_tokens=200)
    assert long.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_tenants_requests_to_one_model_count_nothing_for_another(serve: Serve) -> None:
    deployment = await serve("a", "b", max_requests_in_flight=1, max_queued=1)
    deployment.prefill[0].hangs = True
    calls = [deployment.call(model="a", tenant="greedy", max_tokens=2) for _ in range(2)]
    await eventually(lambda: deployment.app._models.find("a").gate.num_waiting == 1)
    answer = await deployment.generate(model="b", tenant="greedy", max_tokens=2)
    assert answer.token_ids == stub_answer(PROMPT, 2)
    for call in calls:
        call.cancel()


async def test_requests_of_one_id_to_two_models_are_two_requests(serve: Serve) -> None:
    deployment = await serve("a", "b")
    await asyncio.gather(
        *(deployment.generate(model=name, request_id="same", max_tokens=9) for name in ("a", "b"))
    )
    await deployment.generate(model="a", request_id="alone", max_tokens=2)
    explain = deployment.stub.Explain
    for name, worker in zip(("a", "b"), deployment.decode, strict=True):
        message = inference_pb2.ExplainRequest(request_id="same", model=name)
        told = await explain(message)
        assert (told.model, told.attempts[0].decode_worker) == (name, worker.worker_id)
    assert (await explain(inference_pb2.ExplainRequest(request_id="alone"))).model == "a"
    with pytest.raises(grpc.aio.AioRpcError, match="model: got none, expected one of 'a', 'b'"):
        await explain(inference_pb2.ExplainRequest(request_id="same"))
    with pytest.raises(grpc.aio.AioRpcError, match="request_id: got 'alone'"):
        await explain(inference_pb2.ExplainRequest(request_id="alone", model="b"))
    with pytest.raises(grpc.aio.AioRpcError, match="model: got 'x', this router serves 'a', 'b'"):
        await explain(inference_pb2.ExplainRequest(request_id="alone", model="x"))


@pytest.mark.slow
async def test_metrics_and_status_are_each_models_own(serve: Serve) -> None:
    deployment = await serve("a", "b")
    for _ in range(2):
        await deployment.generate(model="a", max_tokens=5)
    await deployment.generate(model="b", max_tokens=5)
    for name, count in (("a", 2), ("b", 1)):
        metric = deployment.metric
        assert await metric("lengthwise_requests_total", code="OK", model=name) == count
        assert await metric("lengthwise_time_to_first_token_seconds_count", model=name) == count
        assert await metric("lengthwise_arrived_requests_total", model=name) == count
        assert await metric("lengthwise_workers", state="ready", model=name) == 2
    assert await deployment.metric("lengthwise_workers", model="") == 0
    async with lengthwise.AsyncClient(str(deployment.app.address)) as client:
        status = await client.status(timeout=5)
    counts = {
        model.model: sum(each.count for each in model.latencies if each.measure == "ttft")
        for model in status.models
    }
    assert counts == {"a": 2, "b": 1}
    assert {worker.model for worker in status.workers} == {"a", "b"}


async def test_every_model_adds_the_same_series_and_requests_add_none(serve: Serve) -> None:
    deployment = await serve("a", 'ü "b"\\ {c}')
    before = await deployment.series()
    for name in ("a", 'ü "b"\\ {c}', "x", ""):
        if name in ("x", ""):
            await deployment.refused(model=name, max_tokens=1)
        else:
            await deployment.generate(model=name, max_tokens=5)
    assert await deployment.series() == before
    by_model: dict[str, set[Any]] = {}
    for name, labels in before:
        model = dict(labels).get("model", "no label")
        by_model.setdefault(model, set()).add((name, labels - {("model", model)}))
    assert by_model["a"] == by_model['ü "b"\\ {c}']


async def test_objectives_may_differ(serve: Serve, stub_checkpoint: Path) -> None:
    patient, strict = (
        ServedModelConfig(
            model=str(stub_checkpoint),
            served_name=name,
            objectives=Objectives(ttft_short_seconds=seconds),
        )
        for name, seconds in (("a", 60.0), ("b", 0.001))
    )
    deployment = await serve("a", "b", models=(patient, strict))
    deployment.prefill[1].delay_seconds = 0.01
    for name in ("a", "b"):
        await deployment.generate(model=name, max_tokens=2)
    met = {"slo": "ttft_short", "met": "true"}
    assert await deployment.metric("lengthwise_slo_total", model="a", **met) == 1
    assert await deployment.metric("lengthwise_slo_total", model="b", **met) == 0


async def test_what_a_models_workers_have_cached_is_no_other_models(serve: Serve) -> None:
    """Two names of one folder: blocks of equal names lie at workers of both."""
    deployment = await serve("a", "b")
    prompt = [65] * 320
    worker = deployment.decode[0]
    hashes = block_hashes(prompt, 16, worker.fingerprint.encode())
    worker.blocks = [short_hash(each) for each in hashes[:6]]
    await eventually(lambda: deployment.app._fleet.models["a"].prefixes._distinct)
    for name in ("a", "b"):
        await deployment.generate(model=name, prompt=prompt, max_tokens=2)
    arrived = "lengthwise_arrived_tokens_total"
    assert await deployment.metric(arrived, model="a") == 320 - 6 * 16
    assert await deployment.metric(arrived, model="b") == 320


async def test_a_worker_that_comes_back_with_another_model_changes_sides(serve: Serve) -> None:
    deployment = await serve("a", "b", no_worker_seconds=5.0)
    workers: list[StubWorker] = [deployment.prefill[0], deployment.decode[0]]
    for worker in workers:
        await worker.stop()
        worker.model = "b"
        await worker.restart()
    fleet = deployment.app._fleet
    await eventually(lambda: len(fleet.models["b"].views()[1]) == 2)
    assert fleet.models["a"].views() == ([], [])
    await deployment.decode[1].stop()
    await deployment.prefill[1].stop()
    answer = await deployment.generate(model="b", max_tokens=4)
    assert answer.token_ids == stub_answer(PROMPT, 4)


async def test_a_worker_that_changes_its_word_is_not_taken_for_two(serve: Serve) -> None:
    deployment = await serve("a", "b")
    deployment.decode[0].model = "b"  # on the same stream
    fleet = deployment.app._fleet
    await eventually(lambda: len(fleet.models["b"].views()[1]) == 2)
    assert not fleet.models["a"].views()[1]
    deployment.decode[0].model = "x"
    await eventually(lambda: len(fleet.models["b"].views()[1]) == 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"model": "x"}, "expected either model or models", id="both"),
        pytest.param({"models": ()}, "expected either model or models", id="neither"),
        pytest.param({"served_name": "x"}, "expected either model or models", id="one name"),
        pytest.param(
            {"models": ({"model": "/x/m"}, {"model": "/y/m/"})}, "got 'm' 2 times", id="twice"
        ),
        pytest.param({"models": ({"model": "x", "served_name": "a\nb"},)}, "printable", id="line"),
        pytest.param({"models": ({"model": "x/" + "m" * 129},)}, "1 to 128", id="long name"),
    ],
)
def test_models_that_cannot_be_told_apart_are_refused(change: dict[str, Any], message: str) -> None:
    models: Sequence[dict[str, Any]] = change.get("models", ({"model": "m"}, {"model": "n"}))
    with pytest.raises(ValueError, match=message):
        RouterConfig(
            **{
                "discovery": DiscoveryConfig(endpoints=("127.0.0.1:1",)),
                **change,
                "models": tuple(ServedModelConfig(**each) for each in models),
            }
        )


async def test_each_model_has_a_tokenizer_and_a_context_of_its_own(
    serve: Serve, stub_checkpoint: Path, tmp_path: Path
) -> None:
    small = write_toy_checkpoint(tmp_path / "small", context_length=64)
    models = tuple(ServedModelConfig(model=str(path)) for path in (small, stub_checkpoint))
    deployment = await serve("small", "stub", models=models)
    refusal = await deployment.refused(model="small", prompt=[65] * 64, max_tokens=1)
    assert "the context of 64 tokens" in refusal.details()
    answer = await deployment.generate(model="stub", prompt=[65] * 64, max_tokens=1)
    assert answer.token_ids == stub_answer([65] * 64, 1)


async def test_a_chat_template_that_does_not_compile_is_told_with_its_model(
    serve: Serve, stub_checkpoint: Path, tmp_path: Path
) -> None:
    bad = write_toy_checkpoint(tmp_path / "bad", context_length=64)
    (bad / "tokenizer_config.json").write_text('{"chat_template": "{% if %}"}')
    models = tuple(ServedModelConfig(model=str(path)) for path in (bad, stub_checkpoint))
    with pytest.raises(ConfigError, match=r"model 'bad': the chat template does not compile"):
        await serve("bad", "stub", models=models)
