"""Scripted routers, and the two clients in turn."""

from collections.abc import Iterator

import pytest
from client.callers import AsyncCaller, Caller, SyncCaller
from client.scripted_router import Router, serving


@pytest.fixture
def router() -> Iterator[Router]:
    router = Router()
    with serving(router):
        yield router


@pytest.fixture
def routers() -> Iterator[tuple[Router, Router]]:
    one, other = Router(), Router()
    with serving(one), serving(other):
        yield one, other


@pytest.fixture(
    params=[pytest.param(SyncCaller(), id="sync"), pytest.param(AsyncCaller(), id="async")]
)
def caller(request: pytest.FixtureRequest) -> Caller:
    chosen: Caller = request.param
    return chosen
