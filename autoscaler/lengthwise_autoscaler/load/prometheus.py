"""Prometheus, asked by instant queries: bounded in time and size, and never believed blindly.

What is wrong with an answer is an error with a reason: no answer, a refused query, or an answer
that is no vector. Tokens are read anew for each round and never logged.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic_core import from_json

from lengthwise_autoscaler.config import PrometheusConfig
from lengthwise_autoscaler.errors import ScalingError
from lengthwise_autoscaler.load.queries import QueryName
from lengthwise_runtime.config import ConfigError

# It would write a line for each query.
logging.getLogger("httpx").setLevel(logging.WARNING)

MAX_ANSWER_BYTES = 4 << 20
"""A thousand pods, named one by one, are 0.1 MB."""

MAX_SKEW_SECONDS = 60.0
"""Between this machine's clock and that of Prometheus. An answer that was made longer ago is a
cache's."""

MAX_CONNECTIONS = 4
"""Queries are cheap; this keeps a round from taking more than its share of Prometheus' 20."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One element of an instant vector."""

    labels: Mapping[str, str]
    value: float

    def label(self, name: str) -> str:
        return self.labels.get(name, "")


Vector = tuple[Row, ...]


class Prometheus:
    """Close it when done."""

    def __init__(self, config: PrometheusConfig) -> None:
        """Errors: ConfigError when the authority's file cannot be used."""
        self._config = config
        try:
            context = ssl.create_default_context(cafile=config.authority)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"prometheus.authority {config.authority}: {error}") from error
        self._context = context
        self._client = self._open()

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(self, queries: Mapping[QueryName, str]) -> dict[QueryName, Vector]:
        """All of them, within `timeout_seconds` together.

        Errors: ScalingError `prometheus_unreachable` or `query_failed`, of the first that fails.
        """
        try:
            return await self._ask(queries)
        except ScalingError:
            # A connection that is given up while it is made stays in the pool for ever: after some
            # rounds without Prometheus there would be none left.
            await self._client.aclose()
            self._client = self._open()
            raise

    def _open(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            headers={"Accept-Encoding": "identity"},
            base_url=self._config.url.rstrip("/"),
            verify=self._context,
            timeout=self._config.timeout_seconds,
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS),
        )

    async def _ask(self, queries: Mapping[QueryName, str]) -> dict[QueryName, Vector]:
        headers = self._headers()
        # No TaskGroup: before Python 3.11.3 one that failed left the task it was in without working
        # timeouts.
        tasks = {
            name: asyncio.create_task(self._query(name, text, headers))
            for name, text in queries.items()
        }
        try:
            async with asyncio.timeout(self._config.timeout_seconds):
                await asyncio.gather(*tasks.values())
        except TimeoutError as error:
            seconds = self._config.timeout_seconds
            raise self._unreachable(f"no answer within {seconds:g} s") from error
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        return {name: task.result() for name, task in tasks.items()}

    def _headers(self) -> dict[str, str]:
        path = self._config.bearer_token
        if path is None:
            return {}
        try:
            token = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            # The text of a decoding error would show the file's content.
            what = error.strerror if isinstance(error, OSError) else "not ASCII"
            raise self._unreachable(f"cannot read prometheus.bearer_token {path}: {what}") from None
        return {"Authorization": f"Bearer {token}"}

    async def _query(self, name: QueryName, text: str, headers: Mapping[str, str]) -> Vector:
        # Thanos would otherwise leave out what it cannot reach; Prometheus ignores it.
        parameters = {
            "query": text,
            "timeout": f"{round(1000 * self._config.timeout_seconds)}ms",
            "partial_response": "false",
        }
        body = bytearray()
        try:
            async with self._client.stream(
                "GET", "/api/v1/query", params=parameters, headers=headers
            ) as response:
                # Not decompressed, which could make a thousand times as much of it.
                async for part in response.aiter_raw():
                    body += part
                    if len(body) > MAX_ANSWER_BYTES:
                        raise _failed(name, f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(f"{type(error).__name__} {error}".strip()) from error
        return read_vector(name, response.status_code, bytes(body))

    def _unreachable(self, what: str) -> ScalingError:
        return ScalingError("prometheus_unreachable", f"Prometheus at {self._config.url}: {what}")


def _failed(name: QueryName, what: str) -> ScalingError:
    return ScalingError("query_failed", what, query=name)


def read_vector(name: QueryName, status: int, body: bytes) -> Vector:
    """Errors: ScalingError."""
    try:
        answer = from_json(body)
        if answer["status"] != "success":
            raise _failed(
                name, f"Prometheus answered {answer.get('errorType')}: {answer.get('error')}"
            )
        data = answer["data"]
        if data["resultType"] != "vector":
            raise _failed(name, f"expected a vector, got a {data['resultType']}")
        return tuple(_row(name, item["metric"], *item["value"]) for item in data["result"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        shown = body[:120].decode("utf-8", "replace")
        raise _failed(
            name,
            f"HTTP {status}, expected Prometheus' JSON ({type(error).__name__}), got {shown!r};"
            " is prometheus.url right?",
        ) from error


def _row(name: QueryName, labels: Any, at: Any, value: Any) -> Row:
    """Errors: ScalingError for what was evaluated at another time than now, TypeError and
    ValueError for what is no row."""
    if not all(isinstance(text, str) for text in (*labels.keys(), *labels.values(), value)):
        raise TypeError
    number = float(value)
    skew = time.time() - at
    if not abs(skew) <= MAX_SKEW_SECONDS:
        raise ScalingError(
            "data_stale",
            f"evaluated {skew:.0f} s ago by this machine's clock, expected at most"
            f" {MAX_SKEW_SECONDS:g}; does a cache answer, or is a clock wrong?",
            query=name,
        )
    # Prometheus writes numbers as strings: "NaN" and "+Inf" among them.
    return Row(labels=labels, value=number)
