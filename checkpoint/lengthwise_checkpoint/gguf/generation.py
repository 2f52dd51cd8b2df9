"""What the generation_config.json of a GGUF model would say: where it ends, how it samples."""

from typing import Any, Final

from lengthwise_checkpoint.gguf.model import GgufModel
from lengthwise_checkpoint.gguf.vocabulary import CONTROL, read_vocabulary

_END_KEYS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")

_ENDS: Final = frozenset(
    {
        *("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>", "<|end|>"),
        *("<end_of_turn>", "<EOT>", "<|EOT|>"),
    }
)
"""Control tokens that end an answer though no key says so, which files name one of alone: as
llama.cpp has it."""

_SAMPLING: Final = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}


def generation_values(model: GgufModel) -> dict[str, Any]:
    """Raises `CheckpointError`."""
    metadata = model.metadata
    keys = (f"tokenizer.ggml.{key}" for key in _END_KEYS)
    named = [metadata.integer(key, minimum=0) for key in keys if key in metadata]
    vocabulary = read_vocabulary(metadata)
    texts = [
        token_id
        for token_id, (token, kind) in enumerate(
            zip(vocabulary.tokens, vocabulary.kinds, strict=True)
        )
        if kind == CONTROL and token in _ENDS
    ]
    sampling = {name: metadata.value(key) for key, name in _SAMPLING.items() if key in metadata}
    return {"eos_token_id": list(dict.fromkeys((*named, *texts))), **sampling}
