"""Measures the demo model on the held-out files, and lets it continue a few prompts.

    python -m demo_model.evaluate engine/lengthwise_engine/demo_model

The model card's held-out losses, by position too, and its samples are printed by this script.
"""

import argparse
import math
from pathlib import Path

import torch
from demo_model.corpus import read_corpus
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import LlamaForCausalLM

POSITION_RANGES = ((0, 512), (512, 1024), (1024, 2048), (2048, 3072), (3072, 4096))
PROMPTS = (
    "def fibonacci(n):\n",
    "import os\n\n\ndef read_lines(path):\n",
    'class Stack:\n    """A simple stack."""\n\n    def push(self, item):\n',
    "def ",
)


def losses(model: LlamaForCausalLM, token_ids: list[int]) -> torch.Tensor:
    """Nats of each token behind the first."""
    tokens = torch.tensor([token_ids])
    with torch.inference_mode():
        logits = model(input_ids=tokens[:, :-1]).logits[0]
    return functional.cross_entropy(logits, tokens[0, 1:], reduction="none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tokens", type=int, default=120, help="length of a continuation")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(2)
    tokenizer = Tokenizer.from_file(str(arguments.checkpoint / "tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(arguments.checkpoint, dtype=torch.float32)
    context_length = model.config.max_position_embeddings

    texts = [file.text for file in read_corpus().held_out]
    files = [tokenizer.encode(text).ids for text in texts]
    characters_per_token = sum(map(len, texts)) / sum(len(ids) - 1 for ids in files)
    of_files = [losses(model, ids[: context_length + 1]) for ids in files]
    mean = torch.cat(of_files).mean().item()
    print(f"{model.num_parameters():,} parameters")
    print(
        f"{len(files)} files, {sum(map(len, of_files)):,} tokens: {mean:.2f} nats per token, "
        f"{mean / math.log(2) / characters_per_token:.2f} bits per character, "
        f"{characters_per_token:.2f} characters per token"
    )
    long = [loss for loss in of_files if len(loss) == context_length]
    for start, stop in POSITION_RANGES:
        at = torch.cat([loss[start:stop] for loss in long]).mean()
        print(f"positions {start}-{stop} of the {len(long)} longest files: {at:.2f} nats per token")

    for prompt in PROMPTS:
        output = model.generate(
            torch.tensor([tokenizer.encode(prompt).ids]), max_new_tokens=arguments.tokens
        )
        print("-" * 80)
        print(tokenizer.decode(output[0].tolist()))


if __name__ == "__main__":
    main()
