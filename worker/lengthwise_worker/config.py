"""Configuration of every worker, whatever its role."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import ConfigDict

from lengthwise_checkpoint.adapters.adapter_config import MAX_RANK
from lengthwise_checkpoint.hub import model_name
from lengthwise_policy.checks import require_at_least, require_at_most
from lengthwise_policy.objectives import Objectives
from lengthwise_runtime.config import STRICT
from lengthwise_runtime.tls.config import TlsConfig
from lengthwise_runtime.tracing.config import TracingConfig

ADAPTER_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

MAX_ADAPTERS: Final = 256
"""Of a worker, whose status names them all; each is a label of metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """A LoRA adapter, as PEFT saves it."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str
    """Requests ask for it by MODEL:NAME."""
    path: str
    """Folder or hub id."""

    def __post_init__(self) -> None:
        if not ADAPTER_NAME.fullmatch(self.name):
            raise ValueError(
                f"name: got {self.name[:80]!r}, expected 1 to 64 letters, digits, dots, dashes and"
                " underscores"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Keys that both worker roles read."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    model: str
    """Checkpoint folder, .gguf file or hub id."""
    served_name: str = ""
    """Name that clients ask for; empty: the last part of `model`."""
    listen: str = "127.0.0.1:0"
    """For gRPC; port 0: any."""
    advertise_host: str = "127.0.0.1"
    """Where other processes reach this one."""
    metrics_listen: str = "127.0.0.1:0"
    """Empty: no metrics endpoint."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where torch finds one."""
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """Of KV transfer; auto is nccl on CUDA and gloo elsewhere."""
    shared_memory: bool = True
    """Whether KV is copied out of the sender's memory where both workers are on one machine. False
    is for measuring and testing `backend` there."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of computation; auto: the checkpoint's, but float32 on CPUs without instructions for it."""
    model_backend: Literal["auto", "native", "transformers"] = "auto"
    """Whose code computes the model: native is ours, of the families that it knows; transformers is
    the package's, which has nearly all (docs/models.md). auto: native where it can."""
    numerics: Literal["auto", "invariant", "fast"] = "auto"
    """invariant: a token's logits are the same to the bit whatever batch, chunk or worker computes
    it, or the worker does not start. fast: they may differ in a last bit. auto: computed so on CPUs
    where the worker finds that it can, else fast; it still serves together with unlike workers."""
    quantization: Literal["none", "fp8", "int8", "int4"] = "none"
    """What the projections of a full checkpoint are rounded to at start: FP8, with inputs, for
    GPUs; integers of 8 or 4 bits, weights alone (docs/models.md). One that is stored quantised is
    computed so either way; integers of a GGUF file, where they are asked for."""
    kv_dtype: Literal["auto", "int8"] = "auto"
    """What keys and values are stored and sent in. auto: the type of computation; int8: half of
    16 bits, a scale for each head of a token included, on CPUs (docs/models.md). Both roles need
    the same."""
    evaluation_records: Path | None = None
    """Folder of `lengthwise evaluate`'s records; unset: `evaluations` in LENGTHWISE_CACHE."""
    accept_failed_evaluation: bool = False
    """Serve a rounded model although its evaluation failed its bounds (docs/models.md)."""
    adapters: tuple[AdapterConfig, ...] = ()
    """LoRA adapters of the model, 256 at most, of native models (docs/models.md). A request for
    MODEL:NAME goes to workers that hold this adapter."""
    adapters_folder: Path | None = None
    """Each folder in it is an adapter too, of its name, from when it is there until it is gone;
    looked at every 2 s."""
    adapter_places: int | None = None
    """Adapters in memory at once; others are loaded when they are asked for, in the place of the
    one that was not for the longest time. Unset: all of `adapters`, and at least 16 with a
    folder."""
    adapter_rank: int = 16
    """The largest rank of adapters in the folder: each place has room for it."""
    tensor_parallel_size: int = 1
    """Ranks that compute the model together, each with a share of its heads; on CUDA each has a
    device of its own."""
    expert_parallel: bool = False
    """Of a mixture of experts each rank computes some experts, and not a share of every one."""
    memory_share: float = 0.9
    """The worker takes this share of a GPU's memory, or of `memory_bytes`: weights, workspace, CUDA
    graphs, and for the KV cache all the rest. Workers on one GPU divide it."""
    memory_bytes: int | None = None
    """On a CPU: what `memory_share` is a share of; unset: what the control group's limit, or the
    machine, leaves."""
    kv_memory_bytes: int | None = None
    """Of the KV cache, of each rank; unset: by `memory_share`."""
    max_context: int | None = None
    """The most tokens of a request, prompt and output; unset: the model's context, or what the KV
    cache holds of it."""
    graph_memory_bytes: int = 2 << 30
    """On a GPU: for CUDA graphs of steps that come again. 0: every step is launched."""
    graph_rows: tuple[int, ...] | None = None
    """Decode rows of the steps whose graphs are captured at the start, 256 at most; unset: 1, 2, 4,
    8 and so on up to 256. Other numbers of rows are padded to the next of these."""
    graph_prompt_tokens: tuple[int, ...] | None = None
    """Tokens of steps of short prompts, likewise, 2 to 4096; unset: 32, 64 and so on up to
    1024."""
    num_blocks: int | None = None
    """KV blocks, instead of `kv_memory_bytes`."""
    prefix_caching: bool = True
    """Whether KV of finished requests is kept for requests with the same prefix."""
    threads: int = 0
    """Of torch on CPU, in each rank; 0: torch's own choice, shared by the ranks."""
    announce_folder: Path | None = None
    """Where it writes a note with its address, for routers whose discovery has this folder."""
    tls: TlsConfig | None = None
    """Of its port and towards decode workers; unset: none."""
    metrics_tls: TlsConfig | None = None
    """With `authority`, probes need a certificate too."""
    stall_seconds: float = 5.0
    """A KV transfer that moves nothing for so long is given up; so is a worker of several ranks
    when one keeps the others waiting."""
    max_request_seconds: float = 3600.0
    """Nothing is held for longer than this for a caller, whatever it asks for: no reservation (its
    lease), no prompt that waits (its deadline). A request that takes longer goes on elsewhere, as
    after the loss of a worker."""
    drain_seconds: float = 30.0
    """For requests in flight after SIGTERM; the rest is given back, and continued elsewhere."""
    tracing: TracingConfig = field(default_factory=TracingConfig)
    """Of the requests that routers trace."""
    objectives: Objectives = field(default_factory=Objectives)
    """The same as the routers': schedulers aim at them."""

    def __post_init__(self) -> None:
        for name in ("stall_seconds", "drain_seconds", "max_request_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("memory_bytes", "kv_memory_bytes", "num_blocks", "max_context"):
            number = getattr(self, name)
            if number is not None and number <= 0:
                raise ValueError(
                    f"{name} must be above 0, got {number}; leave it unset for what fits"
                )
        if not 0 < self.memory_share <= 1:
            raise ValueError(f"memory_share must be above 0, at most 1, got {self.memory_share}")
        if self.kv_memory_bytes is not None and self.num_blocks is not None:
            raise ValueError(
                f"kv_memory_bytes {self.kv_memory_bytes} and num_blocks {self.num_blocks} both say"
                " how large the KV cache is; set one of them, or none"
            )
        names = {adapter.name for adapter in self.adapters}
        if len(names) < len(self.adapters) or len(names) > MAX_ADAPTERS:
            raise ValueError(
                f"adapters: got {len(self.adapters)} with {len(names)} names, expected at most"
                f" {MAX_ADAPTERS}, each with a name of its own"
            )
        if self.adapter_places is not None:
            require_at_least("adapter_places", self.adapter_places, 1)
        require_at_least("adapter_rank", self.adapter_rank, 1)
        require_at_most("adapter_rank", self.adapter_rank, MAX_RANK)
        require_at_least("tensor_parallel_size", self.tensor_parallel_size, 1)
        if self.expert_parallel and self.tensor_parallel_size == 1:
            raise ValueError(
                "expert_parallel: ranks share out the experts, got one; raise tensor_parallel_size"
            )
        require_at_least("threads", self.threads, 0)
        require_at_least("graph_memory_bytes", self.graph_memory_bytes, 0)
        for name, least, most in (("graph_rows", 1, 256), ("graph_prompt_tokens", 2, 4096)):
            sizes = getattr(self, name) or ()
            if any(not least <= size <= most for size in sizes):
                raise ValueError(f"{name}: expected sizes of {least} to {most}, got {sizes}")

    @property
    def model_name(self) -> str:
        return self.served_name or model_name(self.model)

    def transfer_backend(self, device_type: str) -> Literal["gloo", "nccl"]:
        """Backend of KV transfer for a cache on this type of device."""
        if self.backend != "auto":
            return self.backend
        return "nccl" if device_type == "cuda" else "gloo"
