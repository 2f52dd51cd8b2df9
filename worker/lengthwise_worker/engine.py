"""A worker's engine: the model with its KV cache, the transfer process, and the thread that
steps."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lengthwise_engine.hub import resolve_checkpoint
from lengthwise_engine.loading import LoadedModel, load_runner
from lengthwise_engine.transfer.base import TransferEvent
from lengthwise_engine.transfer.config import TransferConfig
from lengthwise_engine.transfer.process import TransferProcess
from lengthwise_policy.prefix import PrefixCache
from lengthwise_runtime.config import Address
from lengthwise_worker.config import WorkerConfig

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often a worker asks whether its transfer process has ended for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What the role's step loop and services are built from."""

    model: LoadedModel
    blocks: PrefixCache
    transfer: TransferProcess

    async def failed(self) -> BaseException:
        """Returns when KV transfer has ended for good, which makes the worker useless."""
        while self.transfer.failure is None:  # noqa: ASYNC110  (a thread's end sets no event)
            await asyncio.sleep(LOOK_SECONDS)
        return self.transfer.failure

    @property
    def layout_fingerprint(self) -> str:
        return self.model.cache.layout.fingerprint()


async def start_engine(config: WorkerConfig, on_event: Callable[[TransferEvent], None]) -> Engine:
    """Loads the model and starts the transfer process. `on_event` is called on the event loop.

    Errors: those of `load_runner` and `TransferProcess.start`, for the operator to mend.
    """
    loop = asyncio.get_running_loop()
    started_at = time.monotonic()
    model = await asyncio.to_thread(_load, config)
    transfer = TransferProcess(
        model.cache,
        TransferConfig(
            backend=config.transfer_backend(model.cache.tensor.device.type),
            listen_host=Address.parse(config.listen).host,
            advertise_host=config.advertise_host,
            stall_seconds=config.stall_seconds,
        ),
        on_event=lambda event: _deliver(loop, on_event, event),
    )
    transfer.start()
    try:
        await asyncio.to_thread(transfer.wait_ready)
    except BaseException:
        await asyncio.to_thread(transfer.stop)
        raise
    logger.info(
        "%s ready in %.1f s: %d KV blocks of %d tokens, %s on %s",
        config.model_name,
        time.monotonic() - started_at,
        model.cache.num_blocks,
        model.cache.layout.block_size,
        model.cache.layout.dtype,
        model.cache.tensor.device,
    )
    blocks = PrefixCache(model.cache.num_blocks, enabled=config.prefix_caching)
    return Engine(model=model, blocks=blocks, transfer=transfer)


def _load(config: WorkerConfig) -> LoadedModel:
    if config.threads:
        torch.set_num_threads(config.threads)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_runner(
        resolve_checkpoint(config.model),
        device=device,
        dtype=None if config.dtype == "auto" else getattr(torch, config.dtype),
        num_blocks=config.num_blocks,
        kv_memory_bytes=config.kv_memory_bytes,
    )


def _deliver(
    loop: asyncio.AbstractEventLoop, on_event: Callable[[TransferEvent], None], event: TransferEvent
) -> None:
    # At the end of a process the reader thread may outlive the loop by a moment.
    if not loop.is_closed():
        loop.call_soon_threadsafe(on_event, event)
