"""HTTP is no way round certificates: the same files, the same rules, the same tenants as gRPC."""

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from harness.keys import make_authority, make_certificate, make_keys
from router.deployment import Deploy, Deployment
from router.http.raw import PATH
from router.stub_workers import MODEL

from lengthwise_runtime.tls.config import CallerNames, TlsConfig
from lengthwise_wire.v1 import common_pb2, inference_pb2, inference_pb2_grpc

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("openssl"), reason="makes keys with openssl"),
]

BODY = {"model": MODEL, "prompt": "once upon a time", "max_tokens": 2, "tenant": "somebody else"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_keys(tmp_path_factory.mktemp("keys"))
    make_certificate(folder, "stranger", names="DNS:stranger,IP:::1,URI:spiffe://a/b")
    return folder


def _tls(keys: Path, **more: object) -> TlsConfig:
    return TlsConfig(
        certificate=keys / "server.pem",
        private_key=keys / "server.key",
        authority=keys / "ca.pem",
        **more,  # type: ignore[arg-type]
    )


@asynccontextmanager
async def calling(
    deployment: Deployment, keys: Path, name: str = "", authority: str = "ca"
) -> AsyncIterator[httpx.AsyncClient]:
    context = ssl.create_default_context(cafile=str(keys / f"{authority}.pem"))
    if name:
        context.load_cert_chain(keys / f"{name}.pem", keys / f"{name}.key")
    base = f"https://{deployment.app.http_address}"
    async with httpx.AsyncClient(base_url=base, verify=context, timeout=20) as client:
        yield client


async def test_without_a_certificate_nothing_is_answered(serve: Deploy, keys: Path) -> None:
    deployment = await serve(client_tls=_tls(keys))
    async with calling(deployment, keys) as client:
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            await client.post(PATH, json=BODY)
    async with httpx.AsyncClient(base_url=f"http://{deployment.app.http_address}") as plain:
        with pytest.raises(httpx.TransportError):
            await plain.post(PATH, json=BODY)
    async with calling(deployment, keys, "client") as client:
        assert (await client.post(PATH, json=BODY)).status_code == 200


async def test_names_decide_who_may_call(serve: Deploy, keys: Path) -> None:
    callers = CallerNames(routers=("a router",), workers=("a worker",), clients=("client",))
    deployment = await serve(client_tls=_tls(keys, callers=callers))
    async with calling(deployment, keys, "client") as client:
        assert (await client.post(PATH, json=BODY)).status_code == 200
    async with calling(deployment, keys, "stranger") as client:
        for response in (await client.post(PATH, json=BODY), await client.get("/v1/models")):
            assert response.status_code == 403
            assert response.json()["error"]["type"] == "permission_error"
        assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize("name", ["client", "stranger"])
async def test_a_caller_is_the_same_tenant_over_grpc_and_http(
    serve: Deploy, keys: Path, name: str
) -> None:
    deployment = await serve(client_tls=_tls(keys))
    async with calling(deployment, keys, name) as client:
        response = await client.post(PATH, json=BODY, headers={"x-request-id": "mine"})
        assert response.status_code == 200
    credentials = grpc.ssl_channel_credentials(
        *((keys / file).read_bytes() for file in ("ca.pem", f"{name}.key", f"{name}.pem"))
    )
    async with grpc.aio.secure_channel(str(deployment.app.address), credentials) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        request = inference_pb2.ExplainRequest(request_id="mine", tenant="another")
        assert (await stub.Explain(request)).output_tokens == 2
        prompt = inference_pb2.Prompt(token_ids=common_pb2.TokenIds(ids=BODY["prompt"].encode()))  # type: ignore[attr-defined]
        async for _ in stub.Generate(inference_pb2.GenerateRequest(prompt=prompt, max_tokens=2)):
            pass
    salts = {request.cache_salt for request in deployment.decode[0].reserves}
    assert len(salts) == 1
    assert salts != {b""}


async def test_renewed_files_are_used_from_the_next_connection_on(
    serve: Deploy, tmp_path: Path
) -> None:
    keys = await asyncio.to_thread(make_keys, tmp_path)
    deployment = await serve(client_tls=_tls(keys))
    async with calling(deployment, keys, "client") as client:
        assert (await client.get("/health")).status_code == 200
    shutil.copy(keys / "ca.pem", keys / "old.pem")
    for name in ("client.pem", "client.key"):
        shutil.copy(keys / name, keys / f"old-{name}")
    await asyncio.to_thread(make_authority, keys)
    for name in ("server", "client"):
        await asyncio.to_thread(make_certificate, keys, name)
    async with calling(deployment, keys, "client") as client:
        assert (await client.get("/health")).status_code == 200
    async with calling(deployment, keys, "client", authority="old") as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("/health")
    async with calling(deployment, keys, "old-client") as client:
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            await client.get("/health")
