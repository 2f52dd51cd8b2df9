"""What a router cannot do now comes as the exceptions of the `openai` package."""

import asyncio
from typing import Any

import openai
import pytest
from harness.waiting import eventually
from router.deployment import Deploy
from router.http.raw import answer
from router.stub_workers import MODEL


@pytest.mark.slow
async def test_errors_are_those_of_the_openai_package(serve: Deploy) -> None:
    deployment = await serve(max_requests_in_flight=1, max_queued=0, default_deadline_seconds=1.0)
    base = f"http://{deployment.app.http_address}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as client:

        async def ask(**fields: Any) -> Any:
            return await client.completions.create(model=MODEL, prompt="a", **fields)

        with pytest.raises(openai.BadRequestError):
            await ask(max_tokens=10_000)
        deployment.prefill[0].hangs = True
        first = asyncio.create_task(ask(max_tokens=2))
        await eventually(lambda: deployment.in_flight)
        with pytest.raises(openai.RateLimitError) as refused:
            await ask(max_tokens=2)
        assert int(refused.value.response.headers["retry-after"]) >= 1
        with pytest.raises(openai.APIStatusError) as late:
            await first
        assert late.value.status_code == 408
        deployment.prefill[0].hangs = False
        deployment.app._service.draining = True
        with pytest.raises(openai.InternalServerError) as draining:
            await ask(max_tokens=2)
        assert draining.value.status_code == 503
        deployment.app._service.draining = False
        assert (await ask(max_tokens=2)).choices[0].text == answer("a", 2)
