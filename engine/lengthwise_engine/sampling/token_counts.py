"""How often each sequence with penalties has each token, kept on the device.

A step adds the tokens that are new since the last; the one that the step before still computes is
added from the device, so that penalised rows run ahead as all others do. What is launched does not
grow with rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise_engine.sampling.state import SamplingState
from lengthwise_kernels.staging import Arrays, to_device

NUM_SLOTS: Final = 256
"""As many rows as a replayed step may have; 156 MB with a vocabulary of 152,000."""

_IN_PROMPT: Final = 1
_IN_OUTPUT: Final = 2


@dataclass(slots=True)
class _Counted:
    """The first `num_tokens` of a sequence are counted in a slot."""

    slot: int
    num_tokens: int
    used_in: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTokens:
    """What a step adds, before it is computed: `amounts` to the counts at `places`, and one in the
    output to those at `bases` plus the tokens of the step before in the rows `sources`."""

    slots: Sequence[int]
    """Of each sampled row; 0 without penalties."""
    emptied: NDArray[np.int64]
    places: NDArray[np.int64]
    amounts: NDArray[np.int32]
    bases: NDArray[np.int64]
    sources: NDArray[np.int64]


class TokenCounts:
    """Counts of as many sequences as there are slots; those that were not used for longest are
    counted anew when they come again."""

    def __init__(self, vocab_size: int, device: torch.device, num_slots: int = NUM_SLOTS) -> None:
        self._vocab_size = vocab_size
        self._num_slots = num_slots
        self._counted: WeakKeyDictionary[SamplingState, _Counted] = WeakKeyDictionary()
        self._num_steps = 0
        # On the CPU memory is taken only where something is written.
        self.table = torch.zeros(1 + num_slots, vocab_size, dtype=torch.int32, device=device)

    def plan(self, states: Sequence[SamplingState], sources: Sequence[int | None]) -> NewTokens:
        """What to add for the next step, which samples for `states`; their tokens are known but for
        the last, where it is the one of row `source` of the step before.

        Raises `ValueError` for more sequences than there are slots.
        """
        self._num_steps += 1
        slots, emptied = [0] * len(states), list[int]()
        places, amounts = [_NOTHING], [_NOTHING]
        bases, rows = list[int](), list[int]()
        for row, (state, source) in enumerate(zip(states, sources, strict=True)):
            if not state.sampling.penalised:
                continue
            known = len(state.token_ids)
            length = known if source is None else known + 1
            counted = self._counted.get(state)
            if counted is None or not state.num_prompt_tokens <= counted.num_tokens <= length:
                counted = self._begin(state)
                emptied.append(counted.slot)
                prompt = np.unique(state.token_ids[: state.num_prompt_tokens])
                places.append(counted.slot * self._vocab_size + prompt.astype(np.int64))
                amounts.append(np.full(len(prompt), _IN_PROMPT))
                counted.num_tokens = min(known, state.num_prompt_tokens)
            slots[row] = counted.slot
            base = counted.slot * self._vocab_size
            if counted.num_tokens < known:
                output = np.array(state.token_ids[counted.num_tokens : known], dtype=np.int64)
                places.append(base + output)
                amounts.append(np.full(len(output), _IN_OUTPUT))
            if source is not None and counted.num_tokens < length:
                bases.append(base)
                rows.append(source)
            counted.num_tokens = length
            counted.used_in = self._num_steps
        return NewTokens(
            slots=slots,
            emptied=np.array(emptied, dtype=np.int64),
            places=np.concatenate(places),
            amounts=np.concatenate(amounts).astype(np.int32),
            bases=np.array(bases, dtype=np.int64),
            sources=np.array(rows, dtype=np.int64),
        )

    def add(self, new: NewTokens, tokens_before: torch.Tensor) -> None:
        """Bring the table up to date; `tokens_before`, int64 [rows], were sampled by the step
        before."""
        if not any(new.slots):
            return
        arrays: Arrays = {
            "emptied": new.emptied,
            "places": new.places,
            "amounts": new.amounts,
            "bases": new.bases,
            "sources": new.sources,
        }
        tensors = to_device(arrays, self.table.device)
        counts = self.table.view(-1)
        if len(new.emptied):
            self.table.index_fill_(0, tensors["emptied"], 0)
        if len(new.places):
            counts.index_add_(0, tensors["places"], tensors["amounts"])
        if len(new.bases):
            places = tensors["bases"] + tokens_before.index_select(0, tensors["sources"])
            one = torch.full_like(places, _IN_OUTPUT, dtype=torch.int32)
            counts.index_add_(0, places, one)

    def _begin(self, state: SamplingState) -> _Counted:
        """An empty slot for a sequence."""
        self._counted.pop(state, None)
        taken = {counted.slot for counted in self._counted.values()}
        slot = next((slot for slot in range(1, self._num_slots + 1) if slot not in taken), None)
        if slot is None:
            oldest = min(self._counted, key=lambda other: self._counted[other].used_in)
            counted = self._counted.pop(oldest)
            if counted.used_in == self._num_steps:
                raise ValueError(
                    f"a step has more sequences with penalties than the {self._num_slots} slots"
                )
            slot = counted.slot
        self._counted[state] = counted = _Counted(slot, 0, self._num_steps)
        return counted


_NOTHING: Final = np.zeros(0, dtype=np.int64)
