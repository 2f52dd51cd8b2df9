"""What an operator may set about HTTP, and what is written down of callers."""

import logging
from pathlib import Path

import httpx
import pytest
from router.deployment import Deploy
from router.http.raw import JSON, PATH, error_of
from router.stub_workers import MODEL

from lengthwise_router.app import RouterApplication
from lengthwise_router.config import DiscoveryConfig, HttpConfig, RouterConfig
from lengthwise_runtime.config import ConfigError

PAGE = "https://chat.example"


async def test_scripts_of_named_pages_may_call_and_no_others(serve: Deploy) -> None:
    deployment = await serve(http=HttpConfig(listen="127.0.0.1:0", cors_origins=(PAGE,)))
    async with httpx.AsyncClient(base_url=f"http://{deployment.app.http_address}") as client:
        for origin, allowed in ((PAGE, PAGE), ("https://other.example", None)):
            asked = {"origin": origin, "access-control-request-method": "POST"}
            preflight = await client.options(PATH, headers=asked)
            assert preflight.headers.get("access-control-allow-origin") == allowed
            refused = await client.post(PATH, content=b"{}", headers={**JSON, "origin": origin})
            assert refused.headers.get("access-control-allow-origin") == allowed
            assert error_of(refused)["param"] == "model"


async def test_no_page_may_call_unless_it_is_named(serve: Deploy) -> None:
    deployment = await serve()
    async with httpx.AsyncClient(base_url=f"http://{deployment.app.http_address}") as client:
        asked = {"origin": PAGE, "access-control-request-method": "POST"}
        response = await client.options(PATH, headers=asked)
        assert response.status_code == 405
        assert "access-control-allow-origin" not in response.headers


async def test_the_user_is_in_the_log_and_is_no_tenant(
    serve: Deploy, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = await serve()
    body = {"model": MODEL, "prompt": "a", "max_tokens": 1, "user": "u" * 200, "tenant": "t"}
    with caplog.at_level(logging.INFO):
        async with httpx.AsyncClient(base_url=f"http://{deployment.app.http_address}") as client:
            assert (await client.post(PATH, json=body)).status_code == 200
    (line,) = [one for one in caplog.messages if "request ended" in one]
    assert f" user={'u' * 128} " in line
    assert " tenant=t " in line


async def test_a_port_that_is_taken_is_told(serve: Deploy, chat_checkpoint: Path) -> None:
    deployment = await serve()
    config = RouterConfig(
        model=str(chat_checkpoint),
        discovery=DiscoveryConfig(endpoints=("127.0.0.1:1",)),
        listen="127.0.0.1:0",
        metrics_listen="",
        http=HttpConfig(listen=deployment.app.http_address),
    )
    second = RouterApplication(config)
    with pytest.raises(ConfigError, match=r"cannot serve HTTP on 127\.0\.0\.1"):
        await second.start()
    await second.drain()
