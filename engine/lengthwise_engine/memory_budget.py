"""How much memory of a device a worker takes, and what for."""

import logging
from dataclasses import dataclass, replace

import torch

from lengthwise_checkpoint.spec import ModelSpec
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.runner.memory_plan import MemoryPlan, MemorySettings, plan_memory
from lengthwise_engine.tensor_parallel.parallel_model import check_devices

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """The memory of a device, `cpu_bytes` of it where that is the CPU."""

    device: torch.device
    cpu_bytes: int
    share: float
    settings: MemorySettings

    def beside(self, adapter_bytes: int) -> "MemoryBudget":
        """The same for a model with so much of adapters."""
        return replace(self, settings=replace(self.settings, adapter_bytes=adapter_bytes))

    def plan(self, model: ModelShard | ModelSpec, dtype: torch.dtype) -> MemoryPlan:
        """Of each rank. Logs it."""
        plan = plan_memory(
            model,
            device_type=self.device.type,
            dtype=str(dtype).removeprefix("torch."),
            budget_bytes=self._budget_bytes(model.size if isinstance(model, ModelShard) else 1),
            settings=self.settings,
        )
        logger.info("memory: %s", plan)
        if plan.is_clamped_by_cache:
            logger.warning(
                "the KV cache of %d blocks holds requests of up to %d tokens, the model's context"
                " is %d: longer ones are refused; give the worker more memory, or set max_context",
                *(plan.num_blocks, plan.context_length, plan.model_context),
            )
        if 0 < plan.budget_bytes < plan.total_bytes:
            logger.warning(
                "this takes up to %d bytes, beyond the worker's share of %d: lower num_blocks or"
                " kv_memory_bytes, or leave them unset",
                *(plan.total_bytes, plan.budget_bytes),
            )
        return plan

    def _budget_bytes(self, num_ranks: int) -> int:
        """Ranks on the CPU divide its memory; what others hold of a GPU cannot be had. Errors:
        RankError."""
        check_devices(self.device.type, num_ranks)
        if self.device.type != "cuda":
            return self.cpu_bytes // num_ranks
        free, total = torch.cuda.mem_get_info(self.device)
        return min(int(self.share * total), free)
