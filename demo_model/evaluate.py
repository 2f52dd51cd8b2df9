"""Measures the demo model on the held-out files, and lets it continue a few prompts.

    python -m demo_model.evaluate engine/lengthwise_engine/demo_model

The rule kept here: every number of the model card is printed by this script.
"""

import argparse
import math
from pathlib import Path

import torch
from demo_model.corpus import SourceFile, read_corpus
from torch.nn import functional
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

POSITION_RANGES = ((0, 512), (512, 1024), (1024, 2048), (2048, 3072), (3072, 4096))
PROMPTS = (
    "def fibonacci(n):\n",
    "import os\n\ndef read_lines(path):\n",
    'class Stack:\n    """A simple stack."""\n\n    def __init__(self):\n',
    "def ",
    "for i in range(10):\n    ",
)


def losses_by_position(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, files: tuple[SourceFile, ...]
) -> list[torch.Tensor]:
    """Per file the loss in nats of each token behind <|begin|>, up to the context length."""
    losses = []
    for file in files:
        ids = tokenizer(file.text, return_tensors="pt")["input_ids"]
        ids = ids[:, : model.config.max_position_embeddings + 1]
        with torch.inference_mode():
            logits = model(input_ids=ids[:, :-1]).logits[0].float()
        losses.append(functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--samples", type=int, default=1, help="continuations of each prompt")
    parser.add_argument("--tokens", type=int, default=120)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    model = LlamaForCausalLM.from_pretrained(arguments.checkpoint, dtype=torch.float32)
    held_out = read_corpus().held_out

    losses = losses_by_position(model, tokenizer, held_out)
    everything = torch.cat(losses)
    characters_per_token = sum(len(f.text) for f in held_out) / sum(
        len(tokenizer(f.text)["input_ids"]) - 1 for f in held_out
    )
    print(
        f"{len(held_out)} files, {len(everything)} tokens: {everything.mean():.3f} nats per token, "
        f"{everything.mean() / math.log(2) / characters_per_token:.3f} bits per character "
        f"({characters_per_token:.2f} characters per token)"
    )
    long = [loss for loss in losses if len(loss) == model.config.max_position_embeddings]
    for start, stop in POSITION_RANGES:
        at = torch.cat([loss[start:stop] for loss in long])
        print(f"positions {start}-{stop} of the {len(long)} longest files: {at.mean():.3f} nats")

    for prompt in PROMPTS:
        for _ in range(arguments.samples):
            output = model.generate(  # type: ignore[misc]
                **tokenizer(prompt, return_tensors="pt"), max_new_tokens=arguments.tokens
            )
            print("-" * 80)
            print(tokenizer.decode(output[0]))


if __name__ == "__main__":
    main()
