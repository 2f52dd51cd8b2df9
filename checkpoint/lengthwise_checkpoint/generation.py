"""When a model ends and how its makers sample: generation_config.json, then config.json.

generation_config.json is optional, and so is each of its keys.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lengthwise_checkpoint.config_json import MAX_INTEGER, ConfigJson
from lengthwise_checkpoint.gguf.generation import generation_values
from lengthwise_checkpoint.gguf.model import is_gguf, read_gguf
from lengthwise_policy.sampling import SamplingParameters

_SMALLEST_PENALTY: Final = 1e-6
"""A repetition penalty divides logits: 0 is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """`sampling` applies to what a request leaves open; its seed means nothing."""

    eos_token_ids: tuple[int, ...]
    sampling: SamplingParameters


def read_generation_defaults(folder: Path, config: ConfigJson) -> GenerationDefaults:
    """Those of a checkpoint with this `config`."""
    if is_gguf(folder):
        generation = ConfigJson(folder, generation_values(read_gguf(folder)))
    else:
        generation = ConfigJson.read_optional(folder / "generation_config.json")
    return GenerationDefaults(
        eos_token_ids=generation.token_ids("eos_token_id") or config.token_ids("eos_token_id"),
        sampling=_read_sampling(generation),
    )


def _read_sampling(generation: ConfigJson) -> SamplingParameters:
    """`do_sample` false, or a `top_p` that leaves one token, mean greedy."""
    top_p = generation.number("top_p", 1.0, minimum=0.0, maximum=1.0)
    temperature = generation.number("temperature", 1.0, minimum=0.0)
    greedy = top_p == 0.0 or not generation.boolean("do_sample", True)
    return SamplingParameters(
        temperature=0.0 if greedy else temperature,
        # -1 is what vLLM calls «all».
        top_k=max(0, generation.integer("top_k", 0, minimum=-1, maximum=MAX_INTEGER)),
        top_p=top_p or 1.0,
        min_p=generation.number("min_p", 0.0, minimum=0.0, maximum=1.0),
        repetition_penalty=generation.number("repetition_penalty", 1.0, minimum=_SMALLEST_PENALTY),
    )
