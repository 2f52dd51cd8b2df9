"""Callers that hang up, send slowly, take nothing or keep to no protocol cost little and pass."""

import asyncio
import json
import os
import signal
import socket
from typing import Any

import httpx
import pytest
from harness.waiting import eventually
from router.deployment import Deploy
from router.http.raw import ServedHttp, connected, posted
from router.stub_workers import MODEL

from lengthwise_router.frontends.http import body as bodies
from lengthwise_router.frontends.http import connections, front

BODY = {"model": MODEL, "prompt": "once upon a time", "max_tokens": 400}


def _body(**fields: Any) -> bytes:
    return json.dumps({**BODY, **fields}).encode()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
async def test_a_client_that_hangs_up_gives_its_blocks_back(
    http: ServedHttp, stream: bool, n: int
) -> None:
    deployment = http.deployment
    deployment.decode[0].step_seconds = 0.05
    caller = await connected(deployment.app.http_address)
    caller.writer.write(posted(_body(stream=stream, n=n)))
    await eventually(lambda: len(deployment.decode[0].held) == n)
    await caller.close()
    await deployment.nothing_is_held(5)
    await eventually(lambda: deployment.in_flight == 0)


async def test_a_client_that_hangs_up_before_the_first_token_is_noticed(http: ServedHttp) -> None:
    deployment = http.deployment
    deployment.prefill[0].hangs = True
    caller = await connected(deployment.app.http_address)
    caller.writer.write(posted(_body(stream=True)))
    await eventually(lambda: deployment.prefill[0].running)
    await caller.close()
    await deployment.nothing_is_held(5)
    assert deployment.prefill[0].cancelled == 1


async def test_a_reader_that_takes_nothing_ends_its_stream(
    http: ServedHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "UNREAD_SECONDS", 0.3)
    deployment = http.deployment
    deployment.decode[0].step_seconds = 0.005
    host, _, port = deployment.app.http_address.rpartition(":")
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    slow.connect((host, int(port)))
    slow.setblocking(False)
    (server_side,) = await _connections(http, 1)
    server_side.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server_side.set_write_buffer_limits(high=1024)
    body = _body(stream=True, logprobs=20)
    await asyncio.get_running_loop().sock_sendall(slow, posted(body))
    await eventually(lambda: deployment.decode[0].held)
    await deployment.nothing_is_held(10)
    await _connections(http, 0)
    slow.close()


async def _connections(http: ServedHttp, count: int) -> list[Any]:
    server = http.deployment.app._http
    assert server is not None
    state = server._state
    await eventually(lambda: len(state.connections) == count)
    return [connection.transport for connection in state.connections]


@pytest.mark.slow
async def test_headers_that_do_not_come_end_the_connection(
    http: ServedHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.2)
    for start in (b"", b"POST /v1/comp", b"\r\n", posted(b"{}")[:60]):
        caller = await connected(http.deployment.app.http_address)
        caller.writer.write(start)
        await caller.until_closed(5)
        await caller.close()


async def test_bytes_between_requests_hold_no_connection(
    http: ServedHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.2)
    caller = await connected(http.deployment.app.http_address)
    caller.writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    await caller.reader.readuntil(b"ok")
    caller.writer.write(b"\r\n")
    await caller.until_closed(5)
    await caller.close()


async def test_a_body_that_does_not_come_is_a_timeout(
    http: ServedHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)
    monkeypatch.setattr(bodies, "DISCARD_SECONDS", 0.2)
    caller = await connected(http.deployment.app.http_address)
    caller.writer.write(posted(b'{"model"', length=1000))
    answer = await caller.until_closed(5)
    assert b" 408 " in answer.split(b"\r\n")[0]
    assert b"did not arrive within" in answer
    await caller.close()


HEADERS = [
    b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 200 + b"\r\n",
    b"GET /health HTTP/1.1\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
    b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\nx: " + b"y" * 50_000,
]


async def test_headers_are_bounded(http: ServedHttp) -> None:
    for sent in HEADERS:
        caller = await connected(http.deployment.app.http_address)
        caller.writer.write(sent)
        answer = await caller.until_closed()
        assert b" 431 " in answer.split(b"\r\n")[0], sent[:40]
        assert b'"error"' in answer
        await caller.close()
    await http.still_serves()


NO_HTTP = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\n\r\n",
    b"NONSENSE\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\ncontent-length: 5\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\ncontent-length: " + b"9" * 30 + b"\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\n\r\n",
]


async def test_what_is_no_http_is_told_so(http: ServedHttp) -> None:
    for sent in NO_HTTP:
        caller = await connected(http.deployment.app.http_address)
        caller.writer.write(sent)
        answer = await caller.until_closed(15)
        assert b" 4" in answer.split(b"\r\n")[0], sent[:40]
        assert b"Traceback" not in answer
        await caller.close()
    await http.still_serves()


async def test_pipelined_requests_are_answered_in_order(http: ServedHttp) -> None:
    caller = await connected(http.deployment.app.http_address)
    bodies = [_body(max_tokens=count) for count in (3, 2, 1)]
    caller.writer.write(b"".join(map(posted, bodies)))
    texts = []
    for _ in range(3):
        head = await caller.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        completion = json.loads(await caller.reader.readexactly(length))
        texts.append(completion["usage"]["completion_tokens"])
    assert texts == [3, 2, 1]
    await caller.close()


@pytest.mark.slow
async def test_a_request_may_begin_where_another_ends(http: ServedHttp) -> None:
    """However the bytes are cut."""
    caller = await connected(http.deployment.app.http_address)
    get = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    first = posted(_body(max_tokens=1))
    caller.writer.write(first[:-5])
    await asyncio.sleep(0.05)
    caller.writer.write(first[-5:] + get * 3000 + get[:9])
    for _ in range(3001):
        assert b" 200 " in await caller.reader.readuntil(b"\r\n")
        head = await caller.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await caller.reader.readexactly(length)
    caller.writer.write(get[9:])
    assert b" 200 " in await caller.reader.readuntil(b"\r\n")
    await caller.close()


async def test_a_body_for_nobody_is_taken_before_the_connection_closes(http: ServedHttp) -> None:
    body = b" " * (8 << 20)
    for path in ("/v1/nothing", "/v1/models"):
        response = await http.post(body, path)
        assert response.status_code in (404, 405)
        assert response.headers["connection"] == "close"
    await http.still_serves()


async def test_one_connection_too_many_closes_the_one_idle_for_longest(
    http: ServedHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    callers = [await connected(http.deployment.app.http_address) for _ in range(3)]
    await _connections(http, 3)
    last = await connected(http.deployment.app.http_address)
    await callers[0].until_closed(5)
    last.writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    assert await last.reader.readuntil(b"ok")
    for caller in (*callers, last):
        await caller.close()


@pytest.mark.slow
async def test_a_draining_router_finishes_what_runs(serve: Deploy) -> None:
    deployment = await serve(step_seconds=0.01)
    caller = await connected(deployment.app.http_address)
    caller.writer.write(posted(_body(stream=True, max_tokens=60)))
    await caller.reader.readuntil(b"data: ")
    idle = await connected(deployment.app.http_address)
    draining = asyncio.create_task(deployment.app.drain())
    await eventually(lambda: deployment.app._service.draining)
    idle.writer.write(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b" 503 " in await idle.reader.readuntil(b"\r\n")
    assert b"[DONE]" in await caller.until_closed()
    await draining
    await idle.until_closed(5)
    for one in (caller, idle):
        await one.close()


@pytest.mark.slow
async def test_a_text_that_nobody_looks_at_in_time_is_told_so(serve: Deploy) -> None:
    deployment = await serve(default_deadline_seconds=0.3)
    renderer = deployment.served.encoder._short
    assert renderer is not None
    assert renderer._process is not None
    os.kill(renderer._process.pid, signal.SIGSTOP)
    base = f"http://{deployment.app.http_address}"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    async with httpx.AsyncClient(base_url=base, timeout=20) as plain:
        assert (await plain.post("/tokenize", json=body)).status_code == 408
