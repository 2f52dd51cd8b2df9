"""How large everything in `make gpu-check` is: on a GPU, and in the rehearsal without one.

A rehearsal runs the same code on the CPU with tiny models, in seconds, so that nothing
but numbers is new when it runs on a GPU for the first time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from random_models.models import SHAPES, Shape, qwen2

from gpu.agreement.case import Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Sizes of every part. Counts of tokens and prompts; models by their names in `shapes`."""

    device: str
    dtype: torch.dtype
    shapes: Mapping[str, Shape]

    questions_model: str
    questions_rows: Sequence[int]
    questions_history: int
    questions_pieces: int

    agreement: Sizes
    kernels: Sizes

    engine_models: Sequence[str]
    fp8_models: Sequence[str]
    prefill_tokens: Sequence[int]
    decode_batches: Sequence[int]
    decode_context: int
    decode_steps: int
    short_models: Sequence[str]
    short_counts: Sequence[int]
    short_tokens: int
    repeats: int

    laps_model: str
    laps_prompts: int
    laps_concurrencies: Sequence[int]
    laps_longest: int
    laps_repeats: int

    rival_models: Sequence[str]
    rival_prompts: Sequence[tuple[int, int]]  # how many, of how many tokens
    rival_decodes: Sequence[tuple[int, int]]
    rival_steps: int
    rival_repeats: int


AGREEMENT: Final = Sizes(
    tokens=64,
    hidden=512,
    inner=256,
    linear_rows=(16, 128),
    experts=(8, 2, 512, 256),
    expert_rows=(1, 40, 300),
    heads=(8, 2, 128),
    packed=(2, 4),
    vocabulary=(4, 1000),
    prompts=(300,),
    short=(4, 16, 200),
    decodes={"ragged": [700, 65, 1]},
    prefixes=[(5, 256, 40)],
)
"""Compiled in seconds, with head sizes and types of real models."""

FULL: Final = Scale(
    device="cuda",
    dtype=torch.bfloat16,
    shapes=SHAPES,
    questions_model="Qwen2.5-0.5B",
    questions_rows=(1, 128),
    questions_history=1000,
    questions_pieces=64,
    agreement=AGREEMENT,
    kernels=Sizes(),
    engine_models=("Qwen2.5-7B", "Qwen2.5-32B"),
    fp8_models=("Qwen2.5-7B",),
    prefill_tokens=(4096, 8192, 16_384),
    decode_batches=(1, 32, 128),
    decode_context=1024,
    decode_steps=40,
    short_models=("Qwen2.5-0.5B", "Qwen2.5-7B"),
    short_counts=(1, 8, 64),
    short_tokens=64,
    repeats=5,
    laps_model="Qwen2.5-32B",
    laps_prompts=500,
    laps_concurrencies=(1, 8, 32, 64, 128),
    laps_longest=4096,
    laps_repeats=5,
    rival_models=("Qwen2.5-7B", "Qwen2.5-32B"),
    rival_prompts=((64, 64), (4, 2048)),
    rival_decodes=((32, 512), (128, 128)),
    rival_steps=64,
    rival_repeats=3,
)

TINY_SIZES: Final = Sizes(
    tokens=32,
    hidden=48,
    inner=40,
    linear_rows=(3,),
    experts=(4, 2, 48, 40),
    expert_rows=(3,),
    heads=(4, 2, 16),
    packed=(2, 2),
    vocabulary=(2, 100),
    prompts=(40,),
    short=(2, 8, 24),
    decodes={"two": [40, 7]},
    prefixes=[(3, 32, 5)],
)
TINY: Final = Scale(
    device="cpu",
    dtype=torch.float32,
    shapes={"tiny": qwen2(hidden=32, inner=48, layers=2, heads=(4, 2), vocab=128)},
    questions_model="tiny",
    questions_rows=(1, 3),
    questions_history=20,
    questions_pieces=4,
    agreement=TINY_SIZES,
    kernels=TINY_SIZES,
    engine_models=("tiny",),
    fp8_models=("tiny",),
    prefill_tokens=(48,),
    decode_batches=(1, 3),
    decode_context=20,
    decode_steps=8,
    short_models=("tiny",),
    short_counts=(1, 3),
    short_tokens=8,
    repeats=2,
    laps_model="tiny",
    laps_prompts=12,
    laps_concurrencies=(1, 4),
    laps_longest=64,
    laps_repeats=2,
    rival_models=("tiny",),
    rival_prompts=((3, 20),),
    rival_decodes=((3, 20),),
    rival_steps=4,
    rival_repeats=1,
)
