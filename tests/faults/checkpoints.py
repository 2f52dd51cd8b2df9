"""Checkpoint folders that say unusual things: tokenizers with tokens of a test's own, files beside
them, and weights that answer by a table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_json(folder: Path, name: str, content: Mapping[str, Any]) -> Path:
    """Replaces one of the checkpoint's files; returns the folder."""
    (folder / name).write_text(json.dumps(content))
    return folder


def read_json(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text())
    return content


def change_config(folder: Path, **changes: Any) -> Path:
    """Of config.json; returns the folder."""
    return write_json(folder, "config.json", {**read_json(folder, "config.json"), **changes})


def add_tokens(folder: Path, tokens: Sequence[str], *, special: bool = True) -> list[int]:
    """The ids that tokenizer.json gives them from now on; the model's vocabulary has them too."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    added = [AddedToken(token, special=special) for token in tokens]
    if special:
        tokenizer.add_special_tokens(added)
    else:
        tokenizer.add_tokens(added)
    _save(tokenizer, folder)
    return [id_of(tokenizer, token) for token in tokens]


def id_of(tokenizer: Tokenizer, token: str) -> int:
    token_id: int | None = tokenizer.token_to_id(token)
    assert token_id is not None, token
    return token_id


def llama2_tokenizer(folder: Path, words: Sequence[str]) -> Tokenizer:
    """As Llama 2's: a space before the first word, byte fallback, and that space stripped again
    when decoding. Written into the folder; each of the words is one token."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        pieces += [*(word[:length] for length in range(1, len(word) + 1)), *word]
        merges |= {(word[:length], word[length]): None for length in range(1, len(word))}
    vocab = {piece: rank for rank, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab, merges=list(merges), byte_fallback=True, unk_token="<unk>", fuse_unk=True
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = [AddedToken(text, special=True, normalized=False) for text in pieces[:3]]
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocab["<s>"])]
    )
    _save(tokenizer, folder)
    return tokenizer


def answer_by(folder: Path, table: Mapping[int, int]) -> Path:
    """Makes the greedy successor of token a `table[a]`: layers add nothing, and the head reads the
    embedding. Needs untied embeddings."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    size = weights["model.embed_tokens.weight"].shape
    embedding = torch.randn(size, generator=torch.Generator().manual_seed(1))
    embedding /= embedding.norm(dim=1, keepdim=True)
    head = torch.zeros(size)
    for token_id, successor in table.items():
        head[successor] += embedding[token_id] * 10
    for name in weights:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = torch.zeros_like(weights[name])
    weights["model.norm.weight"] = torch.ones_like(weights["model.norm.weight"])
    weights |= {"model.embed_tokens.weight": embedding, "lm_head.weight": head}
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def _save(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    change_config(folder, vocab_size=tokenizer.get_vocab_size())
