"""Two ends of KV transfer: real processes over loopback, or the fake inside this process."""

from collections.abc import Iterator

import pytest
from transfer.ends import (
    CONNECT_SECONDS,
    STALL_SECONDS,
    End,
    Ends,
    new_cache,
    start_processes,
)

from lengthwise_engine.transfer.config import TransferConfig
from lengthwise_engine.transfer.in_process import LocalWire

PATIENT_STALL_SECONDS = 15.0
"""Longer than a test waits for anything: what is noticed is no stall, however busy the machine."""

PATIENT_CONNECT_SECONDS = 4.0


def _processes(stall: float, connect: float, *, shared_memory: bool) -> Iterator[Ends]:
    ends = Ends(End(new_cache(1)), End(new_cache(2)))
    config = TransferConfig(
        stall_seconds=stall, connect_seconds=connect, shared_memory=shared_memory
    )
    start_processes(config, ends.sender, ends.receiver)
    yield ends
    ends.sender.transfer.stop()
    ends.receiver.transfer.stop()


# Starting a process costs two seconds of a core, so all tests share these. A test that kills one
# waits until both serve again (`link_again`).


@pytest.fixture(scope="session")
def pull_ends() -> Iterator[Ends]:
    """Their links go through shared memory."""
    yield from _processes(STALL_SECONDS, CONNECT_SECONDS, shared_memory=True)


@pytest.fixture(scope="session")
def network_ends() -> Iterator[Ends]:
    """As if on two machines."""
    yield from _processes(STALL_SECONDS, CONNECT_SECONDS, shared_memory=False)


@pytest.fixture(scope="session")
def patient_pull_ends() -> Iterator[Ends]:
    yield from _processes(PATIENT_STALL_SECONDS, PATIENT_CONNECT_SECONDS, shared_memory=True)


@pytest.fixture(scope="session")
def patient_network_ends() -> Iterator[Ends]:
    yield from _processes(PATIENT_STALL_SECONDS, PATIENT_CONNECT_SECONDS, shared_memory=False)


def _in_process(stall: float, connect: float) -> Iterator[Ends]:
    wire = LocalWire(stall_seconds=stall, connect_seconds=connect)
    ends = Ends(End(new_cache(1)), End(new_cache(2)))
    for end in (ends.sender, ends.receiver):
        end.transfer = wire.end(end.cache, end.hear)
    yield ends
    wire.stop()


@pytest.fixture(scope="session")
def local_ends() -> Iterator[Ends]:
    yield from _in_process(STALL_SECONDS, CONNECT_SECONDS)


@pytest.fixture(scope="session")
def patient_local_ends() -> Iterator[Ends]:
    yield from _in_process(PATIENT_STALL_SECONDS, PATIENT_CONNECT_SECONDS)


@pytest.fixture(
    scope="module", params=["pull", pytest.param("network", marks=pytest.mark.slow), "local"]
)
def ends(request: pytest.FixtureRequest) -> Ends:
    """Each implementation in turn. A test takes links of its own."""
    ends: Ends = request.getfixturevalue(f"patient_{request.param}_ends")
    return ends


@pytest.fixture(params=["pull", "network", "local"])
def hasty_ends(request: pytest.FixtureRequest) -> Ends:
    """Each implementation in turn, which soon gives up a peer that says nothing."""
    ends: Ends = request.getfixturevalue(f"{request.param}_ends")
    return ends


@pytest.fixture(params=["pull", "network"])
def process_ends(request: pytest.FixtureRequest) -> Ends:
    """Both kinds of links between processes in turn."""
    ends: Ends = request.getfixturevalue(f"{request.param}_ends")
    return ends


@pytest.fixture
def patient_ends(request: pytest.FixtureRequest) -> Ends:
    """For indirect parameters: the kind of links."""
    ends: Ends = request.getfixturevalue(f"patient_{request.param}_ends")
    return ends
