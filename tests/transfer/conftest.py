"""Two ends of KV transfer: real processes over loopback, or the fake inside this process."""

from collections.abc import Iterator

import pytest
import torch
from harness.transfer import STALL_SECONDS, End, Ends, new_cache, start_processes

from lengthwise_engine.transfer.config import TransferConfig
from lengthwise_engine.transfer.in_process import LocalWire


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """As in the transfer process; for small copies torch's threads cost more than they do."""
    torch.set_num_threads(1)


def _processes(*, shared_memory: bool) -> Iterator[Ends]:
    ends = Ends(End(new_cache(1)), End(new_cache(2)))
    config = TransferConfig(
        stall_seconds=STALL_SECONDS, connect_seconds=1.0, shared_memory=shared_memory
    )
    start_processes(config, ends.sender, ends.receiver)
    yield ends
    ends.sender.transfer.stop()
    ends.receiver.transfer.stop()


@pytest.fixture(scope="module")
def host_ends() -> Iterator[Ends]:
    """Their links go through shared memory."""
    yield from _processes(shared_memory=True)


@pytest.fixture(scope="module")
def network_ends() -> Iterator[Ends]:
    """As if on two machines."""
    yield from _processes(shared_memory=False)


@pytest.fixture(scope="module")
def local_wire() -> Iterator[LocalWire]:
    wire = LocalWire(stall_seconds=STALL_SECONDS, connect_seconds=1.0)
    yield wire
    wire.stop()


@pytest.fixture(scope="module")
def local_ends(local_wire: LocalWire) -> Ends:
    ends = Ends(End(new_cache(1)), End(new_cache(2)))
    for end in (ends.sender, ends.receiver):
        end.transfer = local_wire.end(end.cache, end.hear)
    return ends


PROCESSES = [pytest.param(name, marks=pytest.mark.slow) for name in ("host", "network")]


@pytest.fixture(scope="module", params=[*PROCESSES, "local"])
def ends(request: pytest.FixtureRequest) -> Ends:
    """Each implementation in turn. Module-scoped: a test takes links of its own."""
    ends: Ends = request.getfixturevalue(f"{request.param}_ends")
    return ends


@pytest.fixture(scope="module", params=PROCESSES)
def process_ends(request: pytest.FixtureRequest) -> Ends:
    """Both kinds of links between processes in turn."""
    ends: Ends = request.getfixturevalue(f"{request.param}_ends")
    return ends
