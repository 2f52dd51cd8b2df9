"""Toy checkpoints: written for tests and quick starts, read like any other model's.

The folder has the files of a Hugging Face checkpoint, so a router or a worker treats it
as one; only the weights are missing, because arithmetic has none.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from lengthwise_checkpoint.toy import EOS_TOKEN_ID, HEAD_DIM, MODEL_TYPE, NUM_KV_HEADS, VOCAB_SIZE

SPECIAL_TOKENS = ("<|begin|>", "<|end|>", "<|user|>", "<|assistant|>")


def write_toy_checkpoint(
    folder: Path,
    *,
    num_layers: int = 4,
    context_length: int = 4096,
    eos_one_in: int = 0,
    step_seconds: float = 0.0,
    prefill_seconds_per_token: float = 0.0,
    asynchronous: bool = False,
) -> Path:
    """Write config.json, generation_config.json and tokenizer.json into `folder`; return it.

    Toy text is printable ASCII and never ends by itself unless `eos_one_in` k > 0, which makes one
    token in about k the end-of-sequence token. `step_seconds` and `prefill_seconds_per_token` slow
    the runner down so that a test can hold requests in flight. `asynchronous` steps are computed
    beside the thread that launches them, as on a GPU.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": MODEL_TYPE,
        "num_hidden_layers": num_layers,
        "num_key_value_heads": NUM_KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": context_length,
        "vocab_size": VOCAB_SIZE,
        "eos_token_id": EOS_TOKEN_ID,
        "dtype": "float32",
        "eos_one_in": eos_one_in,
        "step_seconds": step_seconds,
        "prefill_seconds_per_token": prefill_seconds_per_token,
        "asynchronous": asynchronous,
    }
    generation = {"eos_token_id": EOS_TOKEN_ID}
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    _byte_level_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def _byte_level_tokenizer() -> Tokenizer:
    """One token per UTF-8 byte whose id is the byte's value, then the special tokens."""
    tokenizer = Tokenizer(models.BPE(vocab=_byte_characters(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL_TOKENS])
    return tokenizer


def _byte_characters() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: itself where printable, else from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    characters = {chr(byte): byte for byte in printable}
    characters |= {chr(0x100 + rank): byte for rank, byte in enumerate(hidden)}
    return characters
