"""Reads a checkpoint's tensors onto a device, as they are computed with.

A rank reads no bytes of a projection but its own, and a checkpoint is used up exactly: a tensor
missing, left over or of another shape is an error.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from lengthwise_checkpoint.errors import CheckpointError, UnsupportedModel
from lengthwise_checkpoint.spec import DecoderSpec
from lengthwise_engine.models.integers.codes import ROUNDED_BITS, Codes
from lengthwise_engine.models.integers.linear import IntegerLinear
from lengthwise_engine.models.integers.stored import StoredIntegers, stacked
from lengthwise_engine.models.linear import Fp8Linear, Linear, Projection
from lengthwise_engine.models.weight_files import TensorPart, WeightFiles
from lengthwise_kernels.dispatch import E4M3, Fp8Rows, packs, packs_copy

logger = logging.getLogger(__name__)

_IGNORED: Final = re.compile(r".*\.rotary_emb\.inv_freq")
"""Old exports of Llama 2 store the frequencies, which follow from config.json."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One side of a projection: its whole size, and the range of it that is kept."""

    size: int
    kept: range


class WeightReader:
    """Reads tensors onto a device in one type and remembers which were read.

    Projections may become 8-bit or packed, one by one: beside the results there is never more than
    one of them as it was read.
    """

    def __init__(
        self,
        files: WeightFiles,
        device: torch.device,
        dtype: torch.dtype,
        spec: DecoderSpec,
        integer_dtype: torch.dtype,
    ) -> None:
        self._files = files
        self.device = device
        self._dtype = dtype
        self._integer_dtype = integer_dtype
        self._projections = spec.projections
        self._integers = None
        if spec.integers is not None:
            has = files.__contains__
            self._integers = StoredIntegers(spec.integers, has, self._copied)
            self._integers.check_there(spec.num_layers)
        self._packs = packs(device, dtype)
        self._used: set[str] = set()
        self._num_rounded = self._num_kept = 0

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return self._stack([TensorPart.whole(name, shape)], self._dtype)

    def full(self, name: str, shape: tuple[int, int], rows: range) -> Linear:
        """Some `rows` of a projection that is never rounded: the head, a router."""
        part = TensorPart(f"{name}.weight", shape, (rows, range(shape[1])))
        return self._linear([part], None)

    def tied(self, weight: torch.Tensor) -> Linear:
        """A projection by what is an embedding, too."""
        linear = Linear(weight=weight, bias=None)
        return linear.packed() if self._packs else linear

    def widening(self, outputs: Mapping[str, Cut], in_size: int, bias: bool) -> Projection:
        """The kept outputs of each named projection, one below the other."""

        def parts(kind: str, *rest: int) -> list[TensorPart]:
            return [
                TensorPart(f"{name}.{kind}", (cut.size, *rest), (cut.kept, *map(range, rest)))
                for name, cut in outputs.items()
            ]

        biases = parts("bias") if bias else None
        return self._projection(parts("weight", in_size), parts("weight_scale", 1), biases)

    def narrowing(self, name: str, inputs: Cut, out_size: int, bias: bool, rank: int) -> Projection:
        """The kept inputs of a projection whose results the ranks sum; rank 0 adds the bias."""
        kept = (range(out_size), inputs.kept)
        weight = TensorPart(f"{name}.weight", (out_size, inputs.size), kept)
        scales = TensorPart.whole(f"{name}.weight_scale", (out_size, 1))
        biases = TensorPart.whole(f"{name}.bias", (out_size,))
        if bias and rank:
            self._files.require(biases)
            self._used.add(biases.name)
        return self._projection([weight], [scales], [biases] if bias and not rank else None)

    def leave(self, names: Sequence[str]) -> None:
        """To other ranks."""
        self._used.update(names)

    def _projection(
        self,
        weights: Sequence[TensorPart],
        scales: Sequence[TensorPart],
        biases: Sequence[TensorPart] | None,
    ) -> Projection:
        """`scales` are read where they are stored."""
        if self._integers is not None:
            return self._read_integers(self._integers, weights, biases)
        if (bits := ROUNDED_BITS.get(self._projections)) is not None:
            codes = self._kept(weights, bits)
            if codes is None:
                full = self._stack(weights, self._dtype, may_map=False)
                codes = Codes.rounded(full, bits)
            bias = None if biases is None else self._stack(biases, self._dtype)
            return IntegerLinear.of(codes, bias, self._integer_dtype)
        bias = None if biases is None else self._stack(biases, self._dtype)
        if self._projections == "full":
            return self._linear(weights, bias)
        stored = self._projections == "stored fp8"
        # What is rounded at once is not kept mapped.
        weight = self._stack(weights, E4M3 if stored else self._dtype, may_map=stored)
        if stored:
            rows = Fp8Rows(values=weight, scales=self._stack(scales, torch.float32).squeeze(1))
            return Fp8Linear(weight=rows, bias=bias, dtype=self._dtype)
        return Fp8Linear.of(Linear(weight=weight, bias=bias))

    def _linear(self, weights: Sequence[TensorPart], bias: torch.Tensor | None) -> Linear:
        """In the model's type: mapped as it is stored, or packed where that is faster."""
        mapped = None if self._packs else self._mapped(weights, self._dtype)
        if mapped is not None:
            return Linear(weight=mapped, bias=bias)
        linear = Linear(weight=self._stack(weights, self._dtype, may_map=False), bias=bias)
        return linear.packed() if packs_copy(linear.weight) else linear

    def _kept(self, weights: Sequence[TensorPart], bits: int) -> Codes | None:
        """As a GGUF file has them; None: it has them in more bits, or not all of them alike."""
        self._num_rounded += 1
        found = {self._files.kept_bits(part) for part in weights}
        if len(found) > 1 or not 0 < min(found) <= bits:
            return None
        self._use(weights)
        self._num_kept += 1
        codes = [self._files.read_codes(part).to(self.device) for part in weights]
        return stacked(codes, weights[0].name)

    def log_kept(self, kept_bits: int) -> None:
        """What became of integers of a GGUF file, which has some."""
        if self._num_rounded:
            logger.info(
                "weights: the integers of %d of %d matrices are kept as the file has them, the"
                " others rounded to %s",
                *(self._num_kept, self._num_rounded, self._projections),
            )
        else:
            logger.info(
                "weights: integers of the file become %s; quantization: int%d keeps them",
                *(str(self._dtype).removeprefix("torch."), kept_bits),
            )

    def _read_integers(
        self,
        stored: StoredIntegers,
        weights: Sequence[TensorPart],
        biases: Sequence[TensorPart] | None,
    ) -> IntegerLinear:
        codes = []
        for part in weights:
            name = part.name.removesuffix(".weight")
            num_outputs, num_inputs = part.shape
            rows, columns = part.kept
            try:
                codes.append(stored.codes(name, num_outputs, num_inputs).part(rows, columns))
            except ValueError as error:
                raise UnsupportedModel(f"{name}: {error}; use fewer ranks") from error
        bias = None if biases is None else self._stack(biases, self._dtype)
        return IntegerLinear.of(stacked(codes, weights[0].name), bias, self._integer_dtype)

    def _copied(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return self._stack([TensorPart.whole(name, shape)], dtype, may_map=False)

    def check_all_used(self) -> None:
        left = sorted(
            name for name in self._files.names() - self._used if not _IGNORED.fullmatch(name)
        )
        if left:
            raise CheckpointError(
                f"{self._files.folder}: {len(left)} tensors that config.json does not account for,"
                f" such as {', '.join(left[:3])}"
            )

    def _stack(
        self, parts: Sequence[TensorPart], dtype: torch.dtype, *, may_map: bool = True
    ) -> torch.Tensor:
        """The parts one below the other: on a CPU as they lie in their file where they lie so."""
        if may_map and (mapped := self._mapped(parts, dtype)) is not None:
            return mapped
        self._use(parts)
        counts = [len(part.kept[0]) for part in parts]
        rest = [len(kept) for kept in parts[0].kept[1:]]
        stacked = torch.empty([sum(counts), *rest], dtype=dtype, device=self.device)
        for target, part in zip(torch.split(stacked, counts), parts, strict=True):
            self._files.copy_into(target, part)
        return stacked

    def _mapped(self, parts: Sequence[TensorPart], dtype: torch.dtype) -> torch.Tensor | None:
        self._use(parts)
        return self._files.map(parts, dtype) if self.device.type == "cpu" else None

    def _use(self, parts: Sequence[TensorPart]) -> None:
        for part in parts:
            self._files.require(part)
        self._used.update(part.name for part in parts)
