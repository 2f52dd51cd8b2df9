"""What Prometheus may answer, or not, and what is made of it."""

import asyncio
import gzip
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from lengthwise_autoscaler.config import PrometheusConfig
from lengthwise_autoscaler.errors import MAX_TEXT, ScalingError
from lengthwise_autoscaler.load.prometheus import MAX_ANSWER_BYTES, Prometheus, read_vector
from lengthwise_autoscaler.load.queries import QueryName
from lengthwise_runtime.config import ConfigError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

QUERIES: dict[QueryName, str] = {"tpot": "up", "ttft": "down"}


class Scripted:
    """A server that answers every request as `handler` does."""

    handler: Handler
    url = ""
    requests: list[web.Request]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self.handler(request)

    def says(self, text: str, status: int = 200) -> None:
        async def handler(_: web.Request) -> web.Response:
            return web.Response(text=text, status=status)

        self.handler = handler

    def vector(self, *results: dict[str, object]) -> None:
        data = {"resultType": "vector", "result": list(results)}
        self.says(json.dumps({"status": "success", "data": data}))


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    script = Scripted()
    script.requests = []
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    script.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield script
    await runner.cleanup()


@pytest.fixture
async def prometheus(scripted: Scripted) -> AsyncIterator[Prometheus]:
    prometheus = Prometheus(PrometheusConfig(url=scripted.url + "/prefix", timeout_seconds=2.0))
    yield prometheus
    await prometheus.close()


async def fails(prometheus: Prometheus) -> ScalingError:
    with pytest.raises(ScalingError) as caught:
        await prometheus.ask(QUERIES)
    return caught.value


async def test_a_vector_is_read_with_its_labels_and_odd_numbers(
    scripted: Scripted, prometheus: Prometheus
) -> None:
    now = time.time()
    scripted.vector(
        {"metric": {"pool": "prefill"}, "value": [now, "2.5"]},
        {"metric": {}, "value": [now, "NaN"]},
        {"metric": {}, "value": [now, "+Inf"]},
    )
    (first, second, third) = (await prometheus.ask(QUERIES))["tpot"]
    assert (first.label("pool"), first.value) == ("prefill", 2.5)
    assert second.value != second.value
    assert third.value == float("inf")
    assert third.label("pool") == ""
    assert scripted.requests[0].path == "/prefix/api/v1/query"


@pytest.mark.parametrize(
    ("text", "status", "expected"),
    [
        pytest.param(
            '{"status":"error","errorType":"bad_data","error":"parse error: unclosed"}',
            400,
            "Prometheus answered bad_data: parse error: unclosed",
            id="wrong query",
        ),
        pytest.param("<html>404</html>", 404, "is prometheus.url right?", id="another server"),
        pytest.param("", 502, "HTTP 502", id="empty"),
        pytest.param("[]", 200, "expected Prometheus' JSON", id="list"),
        pytest.param("null", 200, "expected Prometheus' JSON", id="null"),
        pytest.param('{"status":"success"}', 200, "expected Prometheus' JSON", id="no data"),
        pytest.param(
            '{"status":"success","data":{"resultType":"matrix","result":[]}}',
            200,
            "expected a vector, got a matrix",
            id="matrix",
        ),
        pytest.param(
            '{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1]}]}}',
            200,
            "expected Prometheus' JSON",
            id="no value",
        ),
        pytest.param(
            '{"status":"success","data":{"resultType":"vector",'
            '"result":[{"metric":{},"value":[1,"many"]}]}}',
            200,
            "expected Prometheus' JSON",
            id="no number",
        ),
        pytest.param("\x00\xff" * 500, 200, "expected Prometheus' JSON", id="garbage"),
    ],
)
async def test_an_answer_that_is_none_is_reported_with_the_query(
    scripted: Scripted, prometheus: Prometheus, text: str, status: int, expected: str
) -> None:
    scripted.says(text, status)
    error = await fails(prometheus)
    assert error.reason == "query_failed"
    assert str(error).startswith("query t")
    assert expected in str(error)
    assert len(str(error)) < 600


json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["status", "data", "resultType", "result", "metric", "value"]), inner
        )
    ),
).map(json.dumps)


@pytest.mark.slow
@given(st.binary(max_size=99) | json_texts.map(str.encode))
def test_any_bytes_are_a_vector_or_one_error(body: bytes) -> None:
    with suppress(ScalingError):
        read_vector("tpot", 200, body)


NOW = time.time()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"metric": {"pool": ["a"]}, "value": [NOW, "1"]}, "query_failed"),
        ({"metric": [["pool", "a"]], "value": [NOW, "1"]}, "query_failed"),
        ({"metric": {}, "value": [NOW, 1]}, "query_failed"),
        ({"metric": {}, "value": ["now", "1"]}, "query_failed"),
        ({"metric": {}, "value": [NOW, "1", "2"]}, "query_failed"),
        ({"metric": {}, "value": "12"}, "query_failed"),
        ({"metric": {}, "value": [NOW - 86_400, "1"]}, "data_stale"),
        ({"metric": {}, "value": [NOW + 86_400, "1"]}, "data_stale"),
        ({"metric": {}, "value": [float("nan"), "1"]}, "data_stale"),
    ],
)
def test_a_row_that_is_none_or_not_of_now_is_refused(row: object, reason: str) -> None:
    answer = {"status": "success", "data": {"resultType": "vector", "result": [row]}}
    with pytest.raises(ScalingError) as caught:
        read_vector("tpot", 200, json.dumps(answer).encode())
    assert caught.value.reason == reason


def test_what_a_server_says_stays_one_short_line() -> None:
    answer = {"status": "error", "errorType": "x", "error": "y\n23:59:59 CRITICAL " + "z" * 9999}
    with pytest.raises(ScalingError) as caught:
        read_vector("tpot", 200, json.dumps(answer).encode())
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= MAX_TEXT


async def test_a_compressed_answer_is_not_unpacked(
    scripted: Scripted, prometheus: Prometheus
) -> None:
    bomb = gzip.compress(bytes(64 << 20))

    async def packed(_: web.Request) -> web.Response:
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    scripted.handler = packed
    error = await fails(prometheus)
    assert error.reason == "query_failed"
    assert scripted.requests[0].headers["Accept-Encoding"] == "identity"


async def test_an_endless_answer_is_cut_off(scripted: Scripted, prometheus: Prometheus) -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)
            sent += 65536

    scripted.handler = endless
    error = await fails(prometheus)
    # Whichever comes first on a slow machine.
    assert "larger than" in str(error) or error.reason == "prometheus_unreachable"
    assert sent < 8 * MAX_ANSWER_BYTES  # of two connections, with what lies in buffers


@pytest.mark.slow
async def test_silence_ends_in_time(scripted: Scripted, prometheus: Prometheus) -> None:
    async def silent(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        raise AssertionError

    scripted.handler = silent
    began_at = time.monotonic()
    error = await fails(prometheus)
    assert time.monotonic() - began_at < 6.0
    assert error.reason == "prometheus_unreachable"
    assert scripted.url in str(error)


async def test_no_server_at_the_address_is_unreachable() -> None:
    prometheus = Prometheus(PrometheusConfig(url="http://127.0.0.1:9", timeout_seconds=0.5))
    error = await fails(prometheus)
    assert error.reason == "prometheus_unreachable"
    await prometheus.close()


async def test_failing_leaves_no_wish_to_cancel_with_the_asking_task() -> None:
    """Before Python 3.11.3 its timeouts would end it, and the autoscaler with it."""
    prometheus = Prometheus(PrometheusConfig(url="http://127.0.0.1:9", timeout_seconds=0.5))
    await fails(prometheus)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await prometheus.close()


async def test_a_redirect_is_not_followed_with_the_token(
    scripted: Scripted, tmp_path: Path
) -> None:
    async def elsewhere(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://elsewhere.example/"})

    scripted.handler = elsewhere
    token = tmp_path / "token"
    token.write_text("hunter2\n")
    prometheus = Prometheus(PrometheusConfig(url=scripted.url, bearer_token=token))
    error = await fails(prometheus)
    assert "HTTP 302" in str(error)
    await prometheus.close()


async def test_the_token_is_sent_read_anew_and_never_logged(
    scripted: Scripted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = tmp_path / "token"
    prometheus = Prometheus(PrometheusConfig(url=scripted.url, bearer_token=token))
    error = await fails(prometheus)
    assert "cannot read prometheus.bearer_token" in str(error)
    scripted.vector()
    for secret in ("hunter2", "hunter3"):
        token.write_text(f"{secret}\n")
        await prometheus.ask(QUERIES)
        assert scripted.requests[-1].headers["Authorization"] == f"Bearer {secret}"
    scripted.says('{"status":"error","errorType":"x","error":"no"}', 401)
    token.write_bytes("hünter4".encode())
    errors = [await fails(prometheus)]
    token.write_text("hunter5")
    errors.append(await fails(prometheus))
    for text in (*map(str, errors), caplog.text):
        assert "hunter" not in text
        assert "nter4" not in text
    await prometheus.close()


def test_an_authority_that_is_none_is_the_operators_error(tmp_path: Path) -> None:
    for authority in (tmp_path / "absent", tmp_path / "empty.pem"):
        (tmp_path / "empty.pem").write_text("no certificate")
        with pytest.raises(ConfigError, match=r"prometheus\.authority"):
            Prometheus(PrometheusConfig(url="https://p:9090", authority=authority))
