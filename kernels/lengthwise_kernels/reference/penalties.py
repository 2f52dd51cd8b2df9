"""Penalties for tokens that a sequence has already.

    repetition: a logit x of a token in prompt or output becomes x / r, or x r below zero
    frequency, presence: a token's logit falls by f for each time it is in the output, by p at once

(Keskar et al. 2019, arXiv:1909.05858, as Hugging Face computes it; OpenAI.)
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalties:
    """What the logits of each row are penalised by.

    `counts`, int32 [num_slots, vocab_size], have for each token of a sequence twice how often it is
    in the output, and one more if it is in the prompt. `slots`, int64 [rows], are the sequences';
    slot 0 has no counts, and its rows no penalties. `repetition`, `presence` and `frequency` are
    float32 [rows].
    """

    counts: torch.Tensor
    slots: torch.Tensor
    repetition: torch.Tensor
    presence: torch.Tensor
    frequency: torch.Tensor


def penalise(logits: torch.Tensor, penalties: Penalties) -> torch.Tensor:
    """`logits`, float32 [rows, vocab_size], or a copy with penalties."""
    rows = penalties.slots.nonzero().squeeze(1)
    if not len(rows):
        return logits
    part, counts = logits[rows], penalties.counts[penalties.slots[rows]]
    repetition, presence, frequency = (
        numbers[rows].unsqueeze(1)
        for numbers in (penalties.repetition, penalties.presence, penalties.frequency)
    )
    repeated = torch.where(part < 0, part * repetition, part / repetition)
    part = torch.where(counts > 0, repeated, part)
    part -= (counts >> 1) * frequency + (counts > 1) * presence
    return logits.index_copy(0, rows, part)
