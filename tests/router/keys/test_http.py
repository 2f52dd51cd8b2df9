"""API keys over HTTP, as the `openai` package and plain callers meet them."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from router.deployment import Deployment, deployed
from router.keys.keys import entry, write
from router.stub_workers import MODEL

from lengthwise_router.config import HttpConfig, KeysConfig

PROMPT = "once upon a time"
BODY = {"model": MODEL, "prompt": PROMPT, "max_tokens": 2}
OPEN = ("/health", "/ready", "/version", "/")
CLOSED = (
    ("GET", "/v1/models"),
    ("GET", f"/v1/models/{MODEL}"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/status"),
    ("GET", "/explain/mine"),
)


@asynccontextmanager
async def serving(
    checkpoint: Path, folder: Path, *entries: dict[str, Any], **config: Any
) -> AsyncIterator[tuple[Deployment, httpx.AsyncClient]]:
    keys = KeysConfig(file=write(folder / "keys.yaml", *entries))
    options = {"http": HttpConfig(listen="127.0.0.1:0"), "keys": keys, **config}
    async with AsyncExitStack() as stack:
        deployment = await stack.enter_async_context(deployed(checkpoint, 1, 1, 0.002, options))
        base = f"http://{deployment.app.http_address}"
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=base, timeout=20))
        yield deployment, client


def openai_client(deployment: Deployment, key: str) -> openai.AsyncOpenAI:
    base = f"http://{deployment.app.http_address}/v1"
    return openai.AsyncOpenAI(base_url=base, api_key=key, max_retries=0)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_openais_client_is_let_in_or_told_why_not(
    stub_checkpoint: Path, tmp_path: Path
) -> None:
    entries = [entry("alice"), entry("few", requests_per_minute=1), entry("none", models=[])]
    async with serving(stub_checkpoint, tmp_path, *entries) as (deployment, _):
        async with openai_client(deployment, "lw-alice") as client:
            assert (await client.completions.create(**BODY)).choices[0].text  # type: ignore[call-overload]
            assert [model.id async for model in client.models.list()] == [MODEL]
        async with openai_client(deployment, "lw-wrong") as client:
            with pytest.raises(openai.AuthenticationError) as unknown:
                await client.completions.create(**BODY)  # type: ignore[call-overload]
            assert unknown.value.code == "invalid_api_key"
            assert unknown.value.response.headers["www-authenticate"] == "Bearer"
            assert "lw-wrong" not in str(unknown.value)
        async with openai_client(deployment, "lw-none") as client:
            assert [model.id async for model in client.models.list()] == []
            with pytest.raises(openai.NotFoundError) as absent:
                await client.completions.create(**BODY)  # type: ignore[call-overload]
            assert absent.value.code == "model_not_found"
        async with openai_client(deployment, "lw-few") as client:
            raw = await client.completions.with_raw_response.create(**BODY, stream=True)  # type: ignore[call-overload]
            assert raw.headers["x-ratelimit-limit-requests"] == "1"
            assert raw.headers["x-ratelimit-remaining-requests"] == "0"
            async for _ in raw.parse():
                pass
            with pytest.raises(openai.RateLimitError) as limited:
                await client.completions.create(**BODY)  # type: ignore[call-overload]
            assert limited.value.code == "rate_limit_exceeded"
            headers = limited.value.response.headers
            assert 40 < int(headers["retry-after"]) <= 60
            assert headers["x-ratelimit-reset-requests"].endswith("s")


async def test_without_a_key_nothing_but_the_probes_is_answered(
    stub_checkpoint: Path, tmp_path: Path
) -> None:
    odd = (b"Bearer \xff\x00\xfe".replace(b"\x00", b""), "Bearer ü".encode(), b"Bearer", b"")
    async with serving(stub_checkpoint, tmp_path, entry("alice"), entry("bob")) as (_, client):
        for path in OPEN:
            assert (await client.get(path)).status_code == 200
        for method, path in CLOSED:
            body = {"json": BODY} if method == "POST" else {}
            for headers in (
                [],
                *([("authorization", value)] for value in odd),
                [("authorization", "Basic lw-alice")],
                [("x-api-key", "lw-alice")],
                [("authorization", "Bearer lw-alice"), ("authorization", "Bearer lw-bob")],
            ):
                answer = await client.request(method, path, headers=headers, **body)  # type: ignore[arg-type]
                assert answer.status_code == 401, (path, headers)
                assert answer.json()["error"]["code"] == "invalid_api_key"
            answer = await client.request(
                method,
                path,
                headers={"Authorization": "bEARER lw-alice"},
                **body,  # type: ignore[arg-type]
            )
            assert answer.status_code != 401


async def test_no_path_is_forgotten(stub_checkpoint: Path, tmp_path: Path) -> None:
    async with serving(stub_checkpoint, tmp_path, entry("alice")) as (deployment, client):
        front: Any = deployment.app._http._config.app  # type: ignore[union-attr]
        for route in front._app.routes:
            path = re.sub(r"{.*?}", "x", route.path)
            for method in route.methods:
                answer = await client.request(method, path)
                is_open = path in OPEN or path.startswith("/page/")
                assert (answer.status_code == 401) is not is_open, (method, path)


async def test_a_key_is_asked_for_before_the_body(stub_checkpoint: Path, tmp_path: Path) -> None:
    async with serving(stub_checkpoint, tmp_path, entry("alice")) as (deployment, client):
        host, _, port = deployment.app.http_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(
                b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: 1000000\r\n\r\n{"
            )
            async with asyncio.timeout(10):
                assert (await reader.readline()).startswith(b"HTTP/1.1 401")
        finally:
            writer.transport.abort()
        answer = await client.get("/v1/models", headers=bearer("x" * (1 << 20)))
        assert answer.status_code == 431


async def test_a_tenant_that_is_not_the_keys_is_refused(
    stub_checkpoint: Path, tmp_path: Path
) -> None:
    async with serving(stub_checkpoint, tmp_path, entry("alice")) as (deployment, client):
        for tenant, status in (("alice", 200), ("bob", 403)):
            answer = await client.post(
                "/v1/completions", json={**BODY, "tenant": tenant}, headers=bearer("lw-alice")
            )
            assert answer.status_code == status
        assert len({each.cache_salt for each in deployment.decode[0].reserves}) == 1


async def test_a_call_for_choices_has_one_prompt_and_tokens_are_told(
    stub_checkpoint: Path, tmp_path: Path
) -> None:
    limits: dict[str, Any] = {"requests_per_minute": 10, "tokens_per_minute": 1000}
    limits["max_concurrent"] = 3
    entries = [entry("a", **limits), entry("free")]
    async with serving(stub_checkpoint, tmp_path, *entries) as (_, client):
        prompt = (await client.post("/v1/completions", json=BODY, headers=bearer("lw-free"))).json()
        num_tokens = prompt["usage"]["prompt_tokens"] + 3 * prompt["usage"]["completion_tokens"]
        answer = await client.post("/v1/completions", json={**BODY, "n": 3}, headers=bearer("lw-a"))
        assert answer.status_code == 200
        assert answer.json()["usage"]["total_tokens"] == num_tokens
        assert answer.headers["x-ratelimit-remaining-requests"] == "9"
        assert answer.headers["x-ratelimit-limit-tokens"] == "1000"
        remaining = int(answer.headers["x-ratelimit-remaining-tokens"])
        assert 1000 - num_tokens <= remaining < 1000 - num_tokens + 10
        answer = await client.post("/v1/completions", json={**BODY, "n": 4}, headers=bearer("lw-a"))
        assert answer.status_code == 429
        assert "4 choices are asked for, at most 3 may at once" in answer.text
        answer = await client.get("/v1/models", headers=bearer("lw-free"))
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


async def test_only_an_admin_sees_the_status_even_just_after_another(
    stub_checkpoint: Path, tmp_path: Path
) -> None:
    entries = [entry("root", admin=True), entry("alice")]
    async with serving(stub_checkpoint, tmp_path, *entries) as (_, client):
        headers = {**bearer("lw-alice"), "x-request-id": "mine"}
        await client.post("/v1/completions", json=BODY, headers=headers)
        for key, status, explained in (
            ("lw-root", 200, 200),
            ("lw-alice", 403, 200),
        ):
            assert (await client.get("/status", headers=bearer(key))).status_code == status
            answer = await client.get("/explain/mine?tenant=alice", headers=bearer(key))
            assert answer.status_code == explained
        answer = await client.get("/explain/mine?tenant=root", headers=bearer("lw-alice"))
        assert answer.status_code == 403


async def test_secrets_are_in_no_log_and_no_answer(
    stub_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with serving(stub_checkpoint, tmp_path, entry("alice", "lw-secret")) as (_, client):
        for key in ("lw-secret", "lw-secret2"):
            answer = await client.post("/v1/completions", json=BODY, headers=bearer(key))
            assert "lw-secret" not in answer.text + json.dumps(dict(answer.headers))
    ours = [record for record in caplog.records if record.name.startswith("lengthwise")]
    assert ours
    assert not [record for record in ours if "lw-secret" in record.getMessage()]
