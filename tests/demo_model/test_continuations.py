"""What the demo model is for: a newcomer's first prompt is answered with something like Python.

The bounds leave room beside what the shipped weights reach, which stands next to them; a model that
knows nothing has 8.0 nats per token.
"""

import ast
import inspect
import random
from typing import TYPE_CHECKING

import pytest
import torch
from tokenizers import Tokenizer
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

pytestmark = pytest.mark.slow

# Written for this test, so that no training file contains it.
UNSEEN = '''\
class Thermostat:
    """Keep a room at the temperature its owner asked for."""

    def __init__(self, target, tolerance=0.5):
        self.target = target
        self.tolerance = tolerance
        self.heating = False

    def update(self, measured):
        """Return True if the heating has to run."""
        if measured < self.target - self.tolerance:
            self.heating = True
        elif measured > self.target + self.tolerance:
            self.heating = False
        return self.heating


def average(values):
    if not values:
        raise ValueError("no values given")
    total = 0
    for value in values:
        total += value
    return total / len(values)
'''


def _losses(model: "LlamaForCausalLM", ids: list[int]) -> torch.Tensor:
    """Nats for each token behind the first."""
    tokens = torch.tensor([ids])
    with torch.inference_mode():
        logits = model(input_ids=tokens[:, :-1]).logits[0]
    return functional.cross_entropy(logits, tokens[0, 1:], reduction="none")


def _parsed_lines(text: str) -> int:
    """How many lines, from the first on, are a complete Python module."""
    lines = text.split("\n")
    for count in range(len(lines), 0, -1):
        try:
            ast.parse("\n".join(lines[:count]))
        except SyntaxError:
            continue
        return count
    return 0


def test_unseen_python_is_likely_and_its_words_in_disorder_are_not(
    model: "LlamaForCausalLM", tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode(UNSEEN).ids
    shuffled = ids[:1] + random.Random(0).sample(ids[1:], len(ids) - 1)
    in_order = _losses(model, ids).mean().item()
    assert in_order < 3.0  # 2.57
    assert _losses(model, shuffled).mean().item() > in_order + 3.0  # 9.35


def test_late_positions_of_a_long_prompt_are_predicted_no_worse_than_early_ones(
    model: "LlamaForCausalLM", tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode(inspect.getsource(inspect)).ids[:2049]
    losses = _losses(model, ids)
    assert losses[1024:].mean() < losses[:512].mean() + 0.2  # 2.53 and 3.11


def test_most_sampled_continuations_are_python_for_most_of_their_lines(
    model: "LlamaForCausalLM", tokenizer: Tokenizer
) -> None:
    torch.manual_seed(0)
    ids = tokenizer.encode("class Stack:\n    def push(self, item):\n").ids
    rows = model.generate(torch.tensor([ids]), max_new_tokens=64, num_return_sequences=16)
    shares = []
    for row in rows:
        text = tokenizer.decode(row.tolist())
        shares.append(_parsed_lines(text) / (text.count("\n") + 1))
    assert sum(share > 0.5 for share in shares) > len(shares) / 2, shares  # 12 to 15 of 16, by seed
