"""Who may call whom: every kind of certificate at every method of every part."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from faults.locked import client, locked, make_parts, tls_of
from grpc_health.v1 import health_pb2, health_pb2_grpc

import lengthwise
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster
from lengthwise_runtime.channel import open_channel
from lengthwise_runtime.tls.callers import PERMITTED
from lengthwise_runtime.tls.config import TlsConfig
from lengthwise_wire.v1 import decode_pb2, inference_pb2, prefill_pb2, worker_pb2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(150),
    pytest.mark.skipif(not shutil.which("openssl"), reason="makes keys with openssl"),
]

KINDS = {
    "alice": "client",
    "router": "router",
    "worker": "worker",
    "autoscaler": "autoscaler",
}

METHODS: dict[str, tuple[str, Any]] = {
    "Inference/Generate": ("router", inference_pb2.GenerateRequest()),
    "Inference/GetModel": ("router", inference_pb2.GetModelRequest()),
    "Inference/ListModels": ("router", inference_pb2.ListModelsRequest()),
    "Inference/Tokenize": ("router", inference_pb2.TokenizeRequest()),
    "Inference/Explain": ("router", inference_pb2.ExplainRequest()),
    "PrefillWorker/Prefill": ("prefill", prefill_pb2.PrefillRequest()),
    "DecodeWorker/Reserve": ("decode", decode_pb2.ReserveRequest()),
    "DecodeWorker/Release": ("decode", decode_pb2.ReleaseRequest()),
    "DecodeWorker/Tokens": ("decode", decode_pb2.TokensRequest()),
    "DecodeWorker/Transfer": ("decode", decode_pb2.TransferFrame()),
    "Worker/Watch": ("prefill", worker_pb2.WatchRequest()),
    "Worker/SetRole": ("decode", worker_pb2.SetRoleRequest()),
}
"""Where each is served, and a message that is refused or does no harm."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_parts(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def cluster(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with locked(write_toy_checkpoint(tmp_path_factory.mktemp("toy")), keys) as cluster:
        yield cluster


def opened(cluster: LocalCluster, place: str, tls: TlsConfig | None) -> grpc.aio.Channel:
    """To the process at a place of METHODS."""
    processes = {
        "router": cluster.routers, "prefill": cluster.prefill, "decode": cluster.decode,
    }  # fmt: skip
    return open_channel(processes[place][0].address, tls)


def kind_of(place: str) -> str:
    return "router" if place == "router" else "worker"


async def outcome(channel: grpc.aio.Channel, method: str, message: Any) -> tuple[str, str]:
    """The status of a call, and its details; OK once a first message has come.

    A stream without a message stays open and sends nothing: a frame that meets a call that has
    just been refused makes gRPC report INTERNAL in place of the refusal."""

    async def frames() -> AsyncIterator[Any]:
        if message is None:
            await asyncio.Event().wait()
        yield message

    is_stream = method.endswith("/Transfer")
    kind = channel.stream_stream if is_stream else channel.unary_stream
    path = f"/lengthwise.v1.{method}"
    call: Any = kind(path, lambda sent: sent.SerializeToString(), lambda received: received)
    call = call(frames() if is_stream else message, timeout=10)
    try:
        await call.read()
        # The end of a stream has a status too.
        code, details = (await call.code(), await call.details()) if call.done() else ("OK", "")
    except grpc.aio.AioRpcError as error:
        code, details = error.code(), error.details()
    call.cancel()
    return getattr(code, "name", code), details or ""


@pytest.mark.parametrize("part", KINDS)
async def test_a_certificate_opens_what_its_part_calls_and_nothing_else(
    cluster: LocalCluster, keys: Path, part: str
) -> None:
    for method, (place, message) in METHODS.items():
        path = f"lengthwise.v1.{method}"
        permitted = KINDS[part] in (PERMITTED.get(path) or PERMITTED[path.partition("/")[0]])
        if method == "DecodeWorker/Transfer" and not permitted:
            message = None
        async with opened(cluster, place, tls_of(keys, part, kind_of(place))) as channel:
            code, details = await outcome(channel, method, message)
        if permitted:
            assert code not in ("PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE"), details
        else:
            assert code == "PERMISSION_DENIED", method
            assert f"got a certificate of {KINDS[part]}" in details
            assert f"{part}.test" in details


@pytest.mark.parametrize("part", ["stranger", None])
@pytest.mark.parametrize("place", ["router", "prefill", "decode"])
async def test_a_stranger_is_told_nothing(
    cluster: LocalCluster, keys: Path, place: str, part: str | None
) -> None:
    """Even where its certificate has a router's name: another authority vouches for it."""
    tls = tls_of(keys, part, kind_of(place)) if part else None
    async with opened(cluster, place, tls) as channel:
        message = worker_pb2.WatchRequest()
        code, _ = await outcome(channel, "Worker/Watch", message)
    assert code == "UNAVAILABLE"


async def test_a_certificate_without_a_name_is_no_tenant(cluster: LocalCluster, keys: Path) -> None:
    async with opened(cluster, "router", tls_of(keys, "nameless", "router")) as channel:
        code, details = await outcome(
            channel, "Inference/GetModel", inference_pb2.GetModelRequest()
        )
    assert code == "UNAUTHENTICATED"
    assert "without a name" in details


async def test_health_is_told_to_every_certificate(cluster: LocalCluster, keys: Path) -> None:
    for place in ("router", "prefill", "decode"):
        async with opened(cluster, place, tls_of(keys, "alice", kind_of(place))) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            answer = await check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_clients_are_served_by_parts_that_know_each_other(
    cluster: LocalCluster, keys: Path
) -> None:
    with client(cluster, keys, "alice") as alice:
        assert alice.generate("once upon a time", max_tokens=20).token_ids


def test_a_worker_is_no_client(cluster: LocalCluster, keys: Path) -> None:
    with (
        client(cluster, keys, "worker") as worker,
        pytest.raises(lengthwise.errors.PermissionDenied, match=r"worker\.test"),
    ):
        worker.generate("once upon a time", max_tokens=1)


def test_the_log_says_who_was_refused_where_it_matters(cluster: LocalCluster) -> None:
    """Nothing here was refused that the deployment needs."""
    for process in cluster.processes:
        assert "refuses this router" not in process.log_path.read_text()
