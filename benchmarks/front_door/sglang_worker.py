"""What SGLang's router takes for a worker: streams so many events, a token each, and computes
nothing. `python -m front_door.sglang_worker PORT`"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

STEP_SECONDS = 0.004


async def generate(request: Request) -> Response:
    body = json.loads(await request.body())
    num_tokens = int(body.get("max_tokens") or 1)

    async def events() -> AsyncIterator[bytes]:
        for index in range(num_tokens):
            await asyncio.sleep(STEP_SECONDS)
            reason = "length" if index == num_tokens - 1 else None
            choice = {"index": 0, "text": "a", "logprobs": None, "finish_reason": reason}
            event = {"id": "cmpl-1", "object": "text_completion", "choices": [choice]}
            yield b"data: " + json.dumps({**event, "created": 0, "model": "toy"}).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def healthy(_: Request) -> Response:
    return PlainTextResponse("ok")


async def information(_: Request) -> Response:
    return JSONResponse({"model_path": "toy", "data": [{"id": "toy"}]})


ROUTES = [
    Route("/v1/completions", generate, methods=["POST"]),
    *(Route(path, healthy) for path in ("/health", "/health_generate")),
    *(
        Route(path, information)
        for path in (
            "/get_model_info",
            "/get_server_info",
            "/model_info",
            "/server_info",
            "/v1/models",
        )
    ),
]

if __name__ == "__main__":
    uvicorn.run(Starlette(routes=ROUTES), port=int(sys.argv[1]), log_level="error")
