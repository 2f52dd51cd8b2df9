"""Routers over stub workers, for checkpoints of a test's own."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from faults.processes import Serve
from router.deployment import Deployment, deployed
from router.stub_workers import MODEL

from lengthwise_engine.toy.checkpoint import write_toy_checkpoint


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A toy checkpoint of the test's own: tokens are bytes, context is 512 tokens."""
    return write_toy_checkpoint(tmp_path / "toy", context_length=512)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(checkpoint, num_prefill=1, num_decode=1, **config)`: a router in this process
    over stub workers."""
    async with AsyncExitStack() as stack:

        async def start(
            checkpoint: Path, num_prefill: int = 1, num_decode: int = 1, **config: Any
        ) -> Deployment:
            config.setdefault("served_name", MODEL)
            return await stack.enter_async_context(
                deployed(checkpoint, num_prefill, num_decode, 0.002, config)
            )

        yield start
