"""What a checkpoint's generation_config.json says about ending and sampling.

The rule: plain JSON in, plain values out; the file is optional, and so is each of its keys.
"""

from dataclasses import dataclass
from pathlib import Path

from lengthwise_engine.models.config_json import ConfigJson


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """Sampling a model's makers recommend; None where they say nothing.

    `eos_token_ids` is empty if the file names none, and config.json's are meant then.
    """

    eos_token_ids: tuple[int, ...] = ()
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


def read_generation_defaults(checkpoint: Path) -> GenerationDefaults:
    """The defaults in a checkpoint folder; `do_sample` false means temperature 0."""
    path = checkpoint / "generation_config.json"
    if not path.exists():
        return GenerationDefaults()
    config = ConfigJson.read(path)

    def number(key: str) -> float | None:
        return config.number(key) if key in config else None

    return GenerationDefaults(
        eos_token_ids=config.integers("eos_token_id"),
        temperature=number("temperature") if config.boolean("do_sample", True) else 0.0,
        top_k=config.integer("top_k", minimum=0) if "top_k" in config else None,
        top_p=number("top_p"),
        min_p=number("min_p"),
        repetition_penalty=number("repetition_penalty"),
    )
