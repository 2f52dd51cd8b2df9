"""The models that are served: random weights of a real family's shape, with a tokenizer that both
sides read.

Nothing here depends on what the weights say, but text has to come out: rows of the output for
tokens that are no text by themselves are 0, so that greedy decoding never takes one, and every
token is a piece of text at once.
"""

import itertools
import json
import string
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

VOCAB_SIZE: Final = 4096
CONTEXT_LENGTH: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Qwen2 in bfloat16, and how hard it is tried."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    first_rate: float  # requests/s of the ladder's first rung
    requests: int  # of a rung


SMALL: Final = Shape(
    name="qwen2 36M", hidden=512, layers=12, heads=8, kv_heads=2, mlp=1536,
    first_rate=3.0, requests=400,
)  # fmt: skip
LARGE: Final = Shape(
    name="qwen2 0.36B", hidden=896, layers=24, heads=14, kv_heads=2, mlp=4864,
    first_rate=0.3, requests=60,
)  # fmt: skip


@contextmanager
def large_model(folder: Path | None) -> Iterator[Path]:
    """The LARGE one at `folder`, written where it is not there; None: for as long as this lasts."""
    with tempfile.TemporaryDirectory() as made:
        model = folder or Path(made) / "model"
        yield model if model.exists() else write_model(LARGE, model)


def write_model(shape: Shape, folder: Path) -> Path:
    """A checkpoint of this shape. Needs transformers."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight[: len(_byte_tokens())] = 0.0
    model.bfloat16().save_pretrained(folder)
    _tokenizer(folder)
    return folder


def _tokenizer(folder: Path) -> None:
    """Every byte, then pairs and triples of letters: byte-level BPE without merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = string.ascii_letters
    pieces = ("".join(pair) for pair in itertools.product(letters, letters + string.digits))
    names = [*_byte_tokens(), *pieces, *map("".join, itertools.product("aeiou", letters, letters))]
    vocabulary = {name: index for index, name in enumerate(names[:VOCAB_SIZE])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT_LENGTH}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _byte_tokens() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())
