"""A worker's engine: the model with its KV cache, and the transfer process."""

import asyncio
import logging
import time
from pathlib import Path

import torch

from lengthwise_checkpoint.adapters.adapter_config import ADAPTER_FILES
from lengthwise_checkpoint.hub import CONFIG_FILES, MODEL_FILES, find_checkpoint
from lengthwise_engine.loaded_model import LoadedModel, check_servable, load_runner
from lengthwise_engine.models.adapters.room import AdapterSettings
from lengthwise_engine.runner.graph_shapes import DECODE_ROWS, PROMPT_TOKENS, GraphPlan
from lengthwise_engine.transfer.base import OnEvent, ProcessLost, ProcessReady, TransferEvent
from lengthwise_engine.transfer.config import TransferConfig
from lengthwise_engine.transfer.supervisor.supervisor import TransferProcess
from lengthwise_kernels.host_memory import keep_freed_memory
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_runtime.config import Address, ConfigError
from lengthwise_runtime.memory import usable_memory_bytes
from lengthwise_worker.accuracy.gate import check_accuracy
from lengthwise_worker.adapters.held import HeldAdapters
from lengthwise_worker.config import WorkerConfig
from lengthwise_worker.deadline import wait_until
from lengthwise_worker.grammars import Grammars

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""How often a worker asks whether one of its processes has ended for good."""

STEP_SECONDS = 5.0
"""No step takes so long: an engine thread that has not ended by then is stuck."""

OPEN_PLACES = 16
"""For adapters, where others may come into a folder."""

FREE_MARGIN_SECONDS = 5.0
"""Beyond `stall_seconds`, for the transfer process to notice, to be killed and to report."""


class Engine:
    """What a role's step loop and services are built from. It outlives them: once it `is_free`
    another role may take it over."""

    def __init__(self, model: LoadedModel, grammars: Grammars, config: WorkerConfig) -> None:
        self.model = model
        self.grammars = grammars
        self.adapters = HeldAdapters(model.adapters, config.adapters_folder)
        self._following = asyncio.create_task(self.adapters.follow(), name="adapters")
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._on_event: OnEvent | None = None
        self.transfer_changed = asyncio.Event()
        """Set, and replaced by a new one, when `transfer.is_up` changes."""
        self.transfer = TransferProcess(
            model.shards,
            TransferConfig(
                backend=config.transfer_backend(model.shards.device_type),
                listen_host=Address.parse(config.listen).host,
                advertise_host=config.advertise_host,
                stall_seconds=config.stall_seconds,
                shared_memory=config.shared_memory,
            ),
            on_event=self._deliver,
        )

    def take_over(self, on_event: OnEvent) -> PrefixCache:
        """Begins a role. Returns the cache's blocks, all of them empty; `on_event` is called on the
        event loop, with what concerned an earlier role too: links have names of their own."""
        self._on_event = on_event
        return PrefixCache(self.model.shards.num_blocks, enabled=self._config.prefix_caching)

    async def is_free(self) -> bool:
        """Waits until no transfer reads or writes the cache any more; the role has closed its
        links. False: that took too long."""
        return await wait_until(
            lambda: not self.transfer.num_links, self._config.stall_seconds + FREE_MARGIN_SECONDS
        )

    async def stop(self) -> None:
        """Ends the transfer process and the ranks, within a few seconds."""
        self._following.cancel()
        await asyncio.to_thread(self.transfer.stop)
        await asyncio.to_thread(self.model.close)

    async def failed(self) -> BaseException:
        """Returns when KV transfer or a rank has ended for good, which makes the worker useless."""
        while True:
            failure = self.transfer.failure or self.model.failure
            if failure is not None:
                return failure
            await asyncio.sleep(POLL_SECONDS)

    @property
    def layout_fingerprint(self) -> str:
        return self.model.shards.layout.fingerprint(self.model.shards.device_type)

    def _deliver(self, event: TransferEvent) -> None:
        # At the end of a process the reader thread may outlive the loop by a moment.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._receive, event)

    def _receive(self, event: TransferEvent) -> None:
        if self._on_event is not None:
            self._on_event(event)
        if isinstance(event, ProcessLost | ProcessReady):
            changed, self.transfer_changed = self.transfer_changed, asyncio.Event()
            changed.set()


async def start_engine(config: WorkerConfig) -> Engine:
    """Loads the model and starts the transfer process.

    Errors: those of `load_runner` and `TransferProcess.start`, for the operator to mend.
    """
    started_at = time.monotonic()
    folder = await asyncio.to_thread(_find, config)
    model = await asyncio.to_thread(_load, folder, config)
    try:
        await asyncio.to_thread(check_accuracy, config, folder, model)
        engine = Engine(model, Grammars(folder, model.spec.vocab_size), config)
    except BaseException:
        model.close()
        raise
    engine.transfer.start()
    try:
        await asyncio.to_thread(engine.transfer.wait_ready)
    except BaseException:
        await engine.stop()
        raise
    logger.info(
        "%s ready in %.1f s: %d KV blocks of %d tokens, %s, %s, %d rank(s) on %s",
        config.model_name,
        time.monotonic() - started_at,
        model.shards.num_blocks,
        model.shards.layout.block_size,
        model.shards.layout.dtype,
        "invariant" if model.is_invariant else "fast",
        config.tensor_parallel_size,
        model.shards.device_type,
    )
    return engine


def _graph_plan(config: WorkerConfig) -> GraphPlan:
    rows, tokens = config.graph_rows, config.graph_prompt_tokens
    return GraphPlan(
        memory_bytes=config.graph_memory_bytes,
        rows=DECODE_ROWS if rows is None else rows,
        prompt_tokens=PROMPT_TOKENS if tokens is None else tokens,
    )


def _find(config: WorkerConfig) -> Path:
    """The checkpoint; what cannot be served is told before weights are fetched."""
    if not Path(config.model).expanduser().exists():
        check_servable(find_checkpoint(config.model, CONFIG_FILES), config.model_backend)
    return find_checkpoint(config.model, MODEL_FILES)


def _adapters(config: WorkerConfig) -> AdapterSettings:
    folders = {each.name: find_checkpoint(each.path, ADAPTER_FILES) for each in config.adapters}
    if config.adapters_folder is None:
        return AdapterSettings(folders=folders, places=config.adapter_places or 0)
    return AdapterSettings(
        folders=folders,
        places=config.adapter_places or max(len(folders), OPEN_PLACES),
        other_rank=config.adapter_rank,
    )


def _device(config: WorkerConfig) -> str:
    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _load(folder: Path, config: WorkerConfig) -> LoadedModel:
    ranks = config.tensor_parallel_size
    if config.threads or ranks > 1:
        torch.set_num_threads(config.threads or max(1, torch.get_num_threads() // ranks))
    device = _device(config)
    if device == "cpu":
        keep_freed_memory()
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device: got cuda, but torch {torch.__version__} finds no GPU; expected auto or cpu"
        )
    return load_runner(
        folder,
        device=device,
        dtype=None if config.dtype == "auto" else getattr(torch, config.dtype),
        kv_dtype=config.kv_dtype,
        quantization=config.quantization,
        model_backend=config.model_backend,
        adapters=_adapters(config),
        numerics=config.numerics,
        num_blocks=config.num_blocks,
        kv_memory_bytes=config.kv_memory_bytes,
        max_context=config.max_context,
        memory_bytes=config.memory_bytes or usable_memory_bytes(),
        memory_share=config.memory_share,
        graphs=_graph_plan(config),
        tensor_parallel_size=ranks,
        expert_parallel=config.expert_parallel,
        stall_seconds=config.stall_seconds,
    )
