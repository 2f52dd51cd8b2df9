"""A mode of a model beside the full model, on texts.

Both are loaded at once, and read the texts in turns, a chunk at a time: the memory that it takes is
known before, and does not grow with the texts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Literal, Protocol

import torch
from tokenizers import Tokenizer

from lengthwise_checkpoint.architectures import is_native
from lengthwise_checkpoint.families import read_config
from lengthwise_checkpoint.hub import MODEL_FILES, find_checkpoint, model_name
from lengthwise_checkpoint.spec import DecoderSpec
from lengthwise_checkpoint.tokenizer import read_text_files
from lengthwise_checkpoint.toy import MODEL_TYPE as TOY
from lengthwise_engine.accuracy.comparison import compare
from lengthwise_engine.accuracy.corpus import held_out, python_sources
from lengthwise_engine.accuracy.pieces import cut
from lengthwise_engine.accuracy.record import (
    DEFAULT_BOUNDS,
    AccuracyBounds,
    AccuracyRecord,
    mode_name,
)
from lengthwise_engine.accuracy.scorer import CHUNK_TOKENS, Scorer
from lengthwise_engine.errors import AccuracyError, DeviceMemoryError
from lengthwise_engine.kv.layout import KVDtype
from lengthwise_engine.models.decoder_loader import Quantization, compute_dtype, read_spec
from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.runner.memory_plan import step_bytes, weight_bytes
from lengthwise_kernels.host_memory import keep_freed_memory
from lengthwise_runtime.memory import usable_memory_bytes

CORPUS: Final = "python"
"""What the text is called that is always read: files of Python's library that the demo model was
not trained on."""

MAX_TEXT_BYTES: Final = 16 << 20
"""Of a text that the user names; more of it is not read."""

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """`tokens` of each text are read at most, in pieces of `context`. Of `texts` the paths; bounds
    that are None are those of the mode. `full_dtype`: what the full model is computed in."""

    model: str
    quantization: Quantization
    kv_dtype: KVDtype
    dtype: Dtype
    full_dtype: Dtype
    device: Literal["auto", "cpu", "cuda"]
    texts: tuple[str, ...]
    tokens: int
    context: int
    most_kl: float | None
    most_perplexity_increase: float | None
    records: str | None

    @property
    def bounds(self) -> AccuracyBounds:
        usual = DEFAULT_BOUNDS[self.quantization]
        increase = self.most_perplexity_increase
        return AccuracyBounds(
            most_kl=usual.most_kl if self.most_kl is None else self.most_kl,
            most_perplexity_increase=usual.most_perplexity_increase
            if increase is None
            else increase,
        )


class Tell(Protocol):
    def __call__(self, doing: str, done: int = 0, total: int = 0) -> None:
        """How far it is; counts are of tokens."""


def evaluate(request: EvaluationRequest, tell: Tell) -> AccuracyRecord:
    """Errors: CheckpointError, EngineError, and OSError for a text that cannot be read."""
    checkpoint = find_checkpoint(request.model, MODEL_FILES)
    device = _device(request.device)
    if request.kv_dtype == "int8" and device.type == "cuda":
        raise AccuracyError("kv_dtype int8 is of CPUs alone, and this is cuda; name --device cpu")
    spec = _evaluated_spec(request, checkpoint)
    context = min(request.context, spec.context_length)
    texts = [
        (name, _pieces(name, documents, checkpoint, spec, context, request.tokens))
        for name, documents in _texts(request.texts)
    ]
    asked = request.dtype, request.full_dtype
    kinds = [compute_dtype(spec, device, _dtype(each)) for each in asked]
    _check_memory(request, checkpoint, device, kinds)
    if device.type == "cpu":
        keep_freed_memory()
    tell(f"loading it in {request.quantization}")
    model = Scorer.load(
        checkpoint, device, _dtype(request.dtype), request.quantization, context, request.kv_dtype
    )
    tell("loading the full model")
    full = Scorer.load(checkpoint, device, kinds[1], "none", context)
    found = [
        compare(name, pieces, model, full, partial(tell, f"reading {name}"))
        for name, pieces in texts
    ]
    return AccuracyRecord(
        model=model_name(request.model),
        fingerprint=model.fingerprint(checkpoint),
        mode=mode_name(spec.rounded_to, model.dtype, request.kv_dtype),
        full_dtype=full.dtype,
        context=context,
        date=datetime.now(UTC).date().isoformat(),
        bounds=request.bounds,
        texts=tuple(found),
    )


def _evaluated_spec(request: EvaluationRequest, checkpoint: Path) -> DecoderSpec:
    """Errors: AccuracyError for a model without approximate modes, or without full weights."""
    config = read_config(checkpoint)
    kind = config.text("model_type")
    if kind == TOY or not is_native(config):
        raise AccuracyError(
            f"{request.model}: {kind} has no approximate mode to evaluate; models that our own code"
            " computes have (docs/models.md)"
        )
    spec = read_spec(checkpoint, request.quantization)
    if spec.projections.startswith("stored"):
        raise AccuracyError(
            f"{request.model}: its weights are stored quantised, and there is no full model to"
            " compare it with; evaluate the checkpoint that it was made of"
        )
    return spec


def _dtype(name: Dtype) -> torch.dtype | None:
    return None if name == "auto" else getattr(torch, name)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _texts(paths: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Names and documents."""
    yield CORPUS, [text for _, text in held_out(python_sources())]
    for path in paths:
        with Path(path).open("rb") as file:
            yield Path(path).name, [file.read(MAX_TEXT_BYTES).decode("utf-8", "replace")]


def _pieces(
    name: str,
    documents: Sequence[str],
    checkpoint: Path,
    spec: DecoderSpec,
    context: int,
    tokens: int,
) -> list[Sequence[int]]:
    tokenizer: Tokenizer = read_text_files(checkpoint).tokenizer
    pieces = cut([tokenizer.encode(text).ids for text in documents], context, tokens)
    if not pieces:
        raise AccuracyError(f"--text: {name} has less than two tokens")
    if (largest := max(map(max, pieces))) >= spec.vocab_size:
        raise AccuracyError(
            f"{checkpoint}: its tokenizer says token {largest} of {name}, config.json has"
            f" {spec.vocab_size}"
        )
    return pieces


def _check_memory(
    request: EvaluationRequest,
    checkpoint: Path,
    device: torch.device,
    kinds: Sequence[torch.dtype],
) -> None:
    """Errors: DeviceMemoryError where both models do not fit together."""
    needed = 0
    quantizations: tuple[Quantization, Quantization] = (request.quantization, "none")
    for kind, quantization in zip(kinds, quantizations, strict=True):
        shard = ModelShard(whole=read_spec(checkpoint, quantization))
        dtype = str(kind).removeprefix("torch.")
        needed += weight_bytes(shard, device.type, dtype) + step_bytes(shard, device.type, dtype)
        needed += 4 * 4 * CHUNK_TOKENS * shard.whole.vocab_size  # logits and what is made of them
    free = usable_memory_bytes() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    if needed > free:
        raise DeviceMemoryError(
            f"{request.model} in {request.quantization} and the full model beside it take up to"
            f" {needed >> 20:,} MiB, {free >> 20:,} MiB are free; give it more memory, or a smaller"
            " --full-dtype"
        )
