"""Which experts compute which rows: `num_chosen` of the largest scores, and places by expert.

logits: [rows, experts], float32, bfloat16 or float16; shares: float32 [rows, num_chosen]; order:
int32 [places]; begins: int32 [experts + 1].

Shapes depend on the number of rows alone, and nothing is read back, so that a graph holds it.
Choosing takes a program for each row, which has its scores in registers. Sorting is by counting: a
program for each expert reads all choices twice (128 KB for 4,096 tokens of 8, in L2), first those
of experts before its own, then where its own are. No program waits for another, and the order does
not depend on which is first.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from lengthwise_kernels.gpu.launch import check, require
from lengthwise_kernels.reference.routing import Routes

MAX_EXPERTS: Final = 1024
"""Scores that a program holds, and tiles that one of `grouped_linear` counts, in registers."""

_BLOCK: Final = 2048


@triton.jit
def _choose_kernel(
    logits_ptr, shares_ptr, experts_ptr, num_experts,
    IS_NORMALISED: tl.constexpr, CHOSEN: tl.constexpr, CHOICES: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    expert, choice = tl.arange(0, EXPERTS), tl.arange(0, CHOICES)
    inside = expert < num_experts
    logits = tl.load(logits_ptr + row * num_experts + expert, mask=inside, other=float("-inf"))
    wide = logits.to(tl.float32)
    mass = tl.exp(wide - tl.max(wide, 0))
    left = tl.where(inside, mass / tl.sum(mass, 0), -1.0)
    shares = tl.zeros([CHOICES], tl.float32)
    experts = tl.zeros([CHOICES], tl.int32)
    for number in tl.static_range(CHOSEN):
        share, best = tl.max(left, 0, return_indices=True)
        # Where scores are not numbers any expert is as good, if there is one of its number.
        best = tl.minimum(best, num_experts - 1)
        shares = tl.where(choice == number, share, shares)
        experts = tl.where(choice == number, best, experts)
        left = tl.where(expert == best, -1.0, left)
    if IS_NORMALISED:
        shares = shares / tl.sum(shares, 0)
    tl.store(shares_ptr + row * CHOSEN + choice, shares, mask=choice < CHOSEN)
    tl.store(experts_ptr + row * CHOSEN + choice, experts, mask=choice < CHOSEN)


@triton.jit(do_not_specialize=["places"])
def _sort_kernel(experts_ptr, order_ptr, begins_ptr, places, BLOCK: tl.constexpr):
    expert = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    before = tl.zeros([BLOCK], tl.int32)
    for start in range(0, places, BLOCK):
        chosen = tl.load(experts_ptr + start + lane, mask=start + lane < places, other=expert)
        before += (chosen < expert).to(tl.int32)
    first = tl.sum(before, 0)
    tl.store(begins_ptr + expert, first)
    for start in range(0, places, BLOCK):
        chosen = tl.load(experts_ptr + start + lane, mask=start + lane < places, other=-1)
        own = (chosen == expert).to(tl.int32)
        at = first + tl.cumsum(own, 0) - own
        tl.store(order_ptr + at, start + lane, mask=own != 0)
        first += tl.sum(own, 0)


def route(logits: torch.Tensor, num_chosen: int, *, is_normalised: bool) -> Routes:
    """Each row of `logits` [rows, experts] takes the `num_chosen` of the largest softmax, which are
    divided by their sum if it `is_normalised`."""
    check("route: logits", logits, [None, None])
    rows, num_experts = logits.shape
    require(
        0 < num_chosen <= num_experts <= MAX_EXPERTS,
        f"route: expected to choose some of at most {MAX_EXPERTS} experts, got {num_chosen} of"
        f" {num_experts}",
    )
    shares = logits.new_empty((rows, num_chosen), dtype=torch.float32)
    experts = logits.new_empty((rows, num_chosen), dtype=torch.int32)
    order = logits.new_empty((rows * num_chosen,), dtype=torch.int32)
    begins = logits.new_empty((num_experts + 1,), dtype=torch.int32)
    if rows:
        _choose_kernel[(rows,)](
            logits, shares, experts, num_experts,
            IS_NORMALISED=is_normalised, CHOSEN=num_chosen,
            CHOICES=triton.next_power_of_2(num_chosen),
            EXPERTS=triton.next_power_of_2(num_experts), num_warps=4 if num_experts > 128 else 1,
        )  # fmt: skip
    # The last program has no expert: what is before it are all places.
    _sort_kernel[(num_experts + 1,)](
        experts, order, begins, rows * num_chosen, BLOCK=_BLOCK, num_warps=4
    )
    return Routes(shares=shares, order=order, begins=begins)
