"""A checkpoint that only routers need, and deployments of stub workers."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from router.deployment import Deploy, Deployment, Running, deployed, deploying
from router.stub_workers import MODEL, StubWorker

from lengthwise_engine.toy.checkpoint import write_toy_checkpoint


@pytest.fixture(scope="session")
def stub_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Named as the stubs' model is; 512 tokens of context; tokens are bytes."""
    return write_toy_checkpoint(tmp_path_factory.mktemp("models") / MODEL, context_length=512)


@pytest.fixture
async def deploy(stub_checkpoint: Path) -> AsyncIterator[Deploy]:
    """`await deploy(num_prefill=1, num_decode=1, **config)` gives a Deployment that is ready."""
    async with deploying(stub_checkpoint) as deploy:
        yield deploy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing(stub_checkpoint: Path) -> AsyncIterator[Deployment]:
    """One pair of workers, the same for all tests of a file, which leave it as it was."""
    async with deployed(stub_checkpoint, 1, 1, 0.002, {}) as deployment:
        yield deployment


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    """`await running(worker, ...)` starts stub workers that the test's end stops."""
    async with AsyncExitStack() as stack:

        async def run(*workers: StubWorker) -> None:
            for worker in workers:
                await worker.start()
                stack.push_async_callback(worker.stop)

        yield run
