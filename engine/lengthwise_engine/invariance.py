"""Whether a loaded model computes a token alike in every batch on this machine, found by trying.

What matrix products of a row return is up to libraries (oneDNN, MKL), which choose kernels by
machine, shape and number of rows; no list of machines says which are alike. On GPUs it follows from
how the kernels are written, if compilers and matrix units do as is thought. So each kind of
operation of the model is computed for many rows and for few of them, on one thread and on all, and
compared to the bit. The same results, as a digest, tell two workers whether they compute alike.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from lengthwise_engine.models.decoder import Decoder
from lengthwise_engine.models.experts.routed import Experts
from lengthwise_engine.models.integers.linear import IntegerLinear
from lengthwise_engine.models.linear import Linear, Projection
from lengthwise_engine.models.weights import DenseLayerWeights, LayerWeights, RoutedLayerWeights
from lengthwise_kernels.dispatch import (
    AttentionBatch,
    LowRankProduct,
    StepAdapters,
    add_low_rank,
    lay_out_adapters,
    lay_out_attention,
    silu_mul,
)
from lengthwise_kernels.staging import to_device

_PARTS = ((0, 1), (1, 3), (3, 6), (0, 7), (40, 41), (6, 39), (66, 67))
"""Rows that are computed again apart, of `_ROWS`: ones, twos, threes, ends of tiles."""
_ROWS = 67

_BLOCK_SIZE = 16
_TOKENS = 640
_AGAIN = ((0, 1), (5, 12), (130, 131), (191, 193), (203, 204), (255, 290), (383, 387), (511, 514))
"""Tokens whose attention is computed again apart, of `_TOKENS`: around every end of a split."""

Rows = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariance:
    """What was found. `varying` names the operations that vary; none: the model is invariant.
    `digest` is 16 hex digits of what they returned, and of nothing else."""

    varying: tuple[str, ...]
    digest: str


@torch.inference_mode()
def try_invariance(model: Decoder) -> Invariance:
    """Takes as long as a prompt of some 200 tokens in one layer, and three times the head."""
    digest = hashlib.sha256(f"{torch.__version__} {_machine(model.device)}".encode())
    varying: list[str] = []
    for name, operation, x in _operations(model):
        whole = _on_one_thread(operation, x)
        if not _is_alike(operation, x, whole):
            varying.append(name)
        digest.update(_bytes(whole))
    # Not in the digest: workers with other adapters are partners for the base.
    for name, operation, x in _adapter_operations(model):
        if not _is_alike(operation, x, _on_one_thread(operation, x)):
            varying.append(name)
    for window in sorted(set(model.spec.windows), key=lambda size: size or 0):
        name = "attention" if window is None else f"attention in windows of {window}"
        whole, alike = _attention(model, window)
        if not alike:
            varying.append(name)
        digest.update(_bytes(whole))
    return Invariance(varying=tuple(varying), digest=digest.hexdigest()[:16])


def _machine(device: torch.device) -> str:
    """Of CPUs the results say what is to be known; GPUs of one capability run the same code."""
    if device.type == "cpu":
        return "cpu"
    return f"{device.type} {torch.cuda.get_device_capability(device)}"


def _bytes(tensor: torch.Tensor) -> memoryview:
    data: memoryview = tensor.cpu().view(torch.uint8).numpy().data
    return data


def _operations(model: Decoder) -> Iterator[tuple[str, Rows, torch.Tensor]]:
    """Name, what computes rows, and rows for it."""
    for name, width, projection in _projections(model):
        row = _numbers((1, width), model.dtype).to(model.device)
        yield name, _sensitive(projection, row), row.repeat(_ROWS, 1)
        if name.startswith("down"):
            gates = _numbers((_ROWS, 2 * width), model.dtype)
            yield "gate", silu_mul, gates.to(model.device)
    for layer in _layers(model):
        if isinstance(layer, RoutedLayerWeights):
            rows = _numbers((_ROWS, model.spec.hidden_size), model.dtype)
            yield "experts", layer.experts, rows.to(model.device)


def _projections(model: Decoder) -> Iterator[tuple[str, int, Projection]]:
    """Name, number of inputs, and the projection."""
    spec, hidden = model.spec, model.spec.hidden_size
    first = model.weights.layers[0]
    yield "qkv", hidden, first.qkv
    yield "output", spec.num_heads * spec.head_dim, first.output
    for layer in _layers(model):
        if isinstance(layer, DenseLayerWeights):
            yield "gate_up", hidden, layer.gate_up
            yield "down", spec.intermediate_size, layer.down
        if isinstance(layer, RoutedLayerWeights) and spec.experts is not None:
            yield "router", hidden, layer.experts.router
            if isinstance(layer.experts, Experts):
                expert = layer.experts.experts[0]
                yield "gate_up of experts", hidden, expert.gate_up
                yield "down of experts", spec.experts.intermediate_size, expert.down
    yield "head", hidden, model.weights.head


def _layers(model: Decoder) -> Iterable[LayerWeights]:
    """The first of each kind."""
    return {type(layer): layer for layer in reversed(model.weights.layers)}.values()


def _adapter_operations(model: Decoder) -> Iterator[tuple[str, Rows, torch.Tensor]]:
    """What the first adapter adds, as `_operations`."""
    if model.adapters is None:
        return
    for name, product in model.adapters.products():
        x = _numbers((_ROWS, product.num_inputs), model.dtype)

        def added(x: torch.Tensor, product: LowRankProduct = product) -> torch.Tensor:
            result = torch.zeros(len(x), product.num_outputs, dtype=x.dtype, device=x.device)
            first = np.zeros(len(x), dtype=np.int64)
            arrays = lay_out_adapters(x.device, first, first, product.num_adapters)
            step = StepAdapters.bind(to_device(arrays, x.device))
            assert step is not None
            return add_low_rank(result, x, product, step.tokens)

        yield f"adapters of {name}", added, x.to(model.device)


def _is_alike(operation: Rows, x: torch.Tensor, whole: torch.Tensor) -> bool:
    """Whether few rows are computed as they are in the `whole`."""
    return all(torch.equal(operation(x[a:b]), whole[a:b]) for a, b in ((0, _ROWS), *_PARTS))


def _sensitive(projection: Projection, row: torch.Tensor) -> Rows:
    """Less what it returns for this row: what is left is what 16 bits had rounded away, in which
    another order of adding nearly always shows."""
    if not isinstance(projection, Linear | IntegerLinear):
        return projection
    result = projection(row)[0]
    bias = -result if projection.bias is None else projection.bias - result
    return replace(projection, bias=bias)


def _on_one_thread(operation: Rows, x: torch.Tensor) -> torch.Tensor:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return operation(x)
    finally:
        torch.set_num_threads(threads)


def _attention(model: Decoder, window: int | None) -> tuple[torch.Tensor, bool]:
    """Of a prompt at once, and whether parts of it computed apart are alike."""
    spec = model.attention
    num_blocks = -(-_TOKENS // _BLOCK_SIZE)
    shape = (num_blocks, 2, _BLOCK_SIZE, spec.num_kv_heads, spec.head_dim)
    layer = _numbers(shape, model.dtype).to(model.device)
    queries = _numbers((_TOKENS, spec.num_heads, spec.head_dim), model.dtype).to(model.device)

    def attend(parts: Sequence[tuple[int, int]]) -> torch.Tensor:
        batch = AttentionBatch(
            query_lengths=[end - start for start, end in parts],
            starts=[start for start, _ in parts],
            block_ids=[range(num_blocks)] * len(parts),
            block_size=_BLOCK_SIZE,
        )
        layout = lay_out_attention(batch, windows=[window], sampled=None, spec=spec)
        step = layout.form.bind(to_device(layout.arrays, spec.device))
        own = torch.cat([queries[start:end] for start, end in parts])
        return step.plans[window].attend(own, layer, spec.head_dim**-0.5)

    whole = attend([(0, _TOKENS)])
    again = [attend([part]) for part in _AGAIN]
    parts = torch.cat([whole[start:end] for start, end in _AGAIN])
    return whole, torch.equal(torch.cat(again), parts) and torch.equal(attend(_AGAIN), parts)


def _numbers(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """The same on every machine: integers below 2^15 as fractions, by a linear congruence."""
    count = torch.Size(shape).numel()
    mixed = (torch.arange(count) * 1103515245 + 12345) % 2**31 >> 16
    return (mixed / 2**14 - 1.0).to(dtype).view(*shape)
