"""A checkpoint that only routers need, and deployments of stub workers."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from router.deployment import Deploy, Deployment, Running, deployed
from router.stub_workers import MODEL, StubWorker

from lengthwise_engine.toy.checkpoint import write_toy_checkpoint


@pytest.fixture(scope="session")
def stub_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Named as the stubs' model is; 512 tokens of context; tokens are bytes."""
    return write_toy_checkpoint(tmp_path_factory.mktemp("models") / MODEL, context_length=512)


@pytest.fixture
async def deploy(stub_checkpoint: Path) -> AsyncIterator[Deploy]:
    """`await deploy(num_prefill=1, num_decode=1, **config)` gives a Deployment that is ready."""
    async with AsyncExitStack() as stack:

        async def start(
            num_prefill: int = 1,
            num_decode: int = 1,
            *,
            step_seconds: float = 0.002,
            **config: Any,
        ) -> Deployment:
            return await stack.enter_async_context(
                deployed(stub_checkpoint, num_prefill, num_decode, step_seconds, config)
            )

        yield start


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    """`await running(worker, ...)` starts stub workers that the test's end stops."""
    async with AsyncExitStack() as stack:

        async def run(*workers: StubWorker) -> None:
            for worker in workers:
                await worker.start()
                stack.push_async_callback(worker.stop)

        yield run
