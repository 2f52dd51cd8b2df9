"""What tests of HTTP talk to, and callers that keep to no protocol."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx
import openai
from router.deployment import Deployment
from router.stub_workers import MODEL, stub_answer

PATH = "/v1/completions"


@dataclass(slots=True)
class ServedHttp:
    """A router, its workers, and two clients."""

    deployment: Deployment
    openai: openai.AsyncOpenAI
    plain: httpx.AsyncClient

    async def complete(self, **fields: Any) -> httpx.Response:
        """A text completion's response, whatever its status."""
        body = {"model": MODEL, "prompt": "once upon a time", "max_tokens": 4, **fields}
        return await self.plain.post(PATH, content=json.dumps(body), headers=JSON)

    async def post(self, body: bytes, path: str = PATH, **headers: str) -> httpx.Response:
        return await self.plain.post(path, content=body, headers={**JSON, **headers})

    async def still_serves(self) -> None:
        """Fails unless the next request is answered, and then nothing is held."""
        response = await self.complete()
        assert response.status_code == 200, response.text
        await self.deployment.nothing_is_held(5)
        assert self.deployment.in_flight == 0


JSON = {"content-type": "application/json"}


def answer(prompt: str, num_tokens: int) -> str:
    """The stubs' text after a prompt."""
    return bytes(stub_answer(prompt.encode(), num_tokens)).decode()


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object, which nothing else is beside."""
    body = response.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text
    return error


@dataclass(slots=True)
class RawConnection:
    """Bytes to and from a server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def until_closed(self, seconds: float = 10.0) -> bytes:
        """All that comes until the server ends it."""
        try:
            async with asyncio.timeout(seconds):
                return await self.reader.read()
        except ConnectionError:
            return b""

    async def close(self) -> None:
        self.writer.transport.abort()


async def connected(address: str) -> RawConnection:
    host, _, port = address.rpartition(":")
    return RawConnection(*await asyncio.open_connection(host, int(port)))


def posted(body: bytes, *, path: str = PATH, length: int | None = None, headers: str = "") -> bytes:
    """The bytes of a request."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body) if length is None else length}\r\n{headers}\r\n"
    )
    return head.encode() + body
