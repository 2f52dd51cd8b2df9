"""How far our logits are from those of transformers, per family, in float32 on small random models
with prompts of 1 to 600 tokens in one batch. Budget: 1e-4.

Whether tokens are equal through both workers, tests/workers/test_families.py says.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from harness.checkpoints import CHECKPOINT_VARIANTS, write_checkpoint
from rows import append_rows
from transformers import AutoModelForCausalLM

from lengthwise_engine.models.build import load_model
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_engine.runner.step_tensors import step_tensors

LENGTHS = (1, 2, 16, 17, 130, 333, 600)
BLOCK_SIZE = 16
BLOCKS_EACH = 40


def prompt_of(length: int) -> list[int]:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(320, (length,), generator=generator).tolist()


@torch.inference_mode()
def difference(folder: Path) -> tuple[float, float]:
    """Largest absolute difference of any logit, and the largest logit it is to be seen against."""
    model = load_model(folder, torch.device("cpu"))
    layout = model.spec.kv_layout(block_size=BLOCK_SIZE, dtype="float32")
    chunks = [
        SequenceChunk(
            token_ids=prompt_of(length),
            start=0,
            block_ids=range(row * BLOCKS_EACH, (row + 1) * BLOCKS_EACH),
            sampling=SamplingState(
                sampling=SamplingParameters(temperature=0.0),
                token_ids=prompt_of(length),
                num_prompt_tokens=length,
            ),
        )
        for row, length in enumerate(LENGTHS)
    ]
    shape = (layout.num_layers, BLOCKS_EACH * len(LENGTHS), 2, BLOCK_SIZE)
    step = step_tensors(
        chunks,
        windows=model.spec.windows,
        block_size=BLOCK_SIZE,
        attention=model.attention,
    )
    got = model.forward(step, torch.zeros(*shape, layout.num_kv_heads, layout.head_dim))
    reference: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = torch.cat(
        [reference(torch.tensor([prompt_of(length)])).logits[:, -1] for length in LENGTHS]
    )
    return float((got - expected).abs().max()), float(expected.abs().max())


def main() -> None:
    rows = []
    for variant in CHECKPOINT_VARIANTS:
        with tempfile.TemporaryDirectory() as folder:
            largest, scale = difference(write_checkpoint(Path(folder), variant))
        print(f"{variant:28} {largest:.1e}")
        rows.append(
            {
                "variant": variant,
                "torch": torch.__version__,
                "prompts": " ".join(str(length) for length in LENGTHS),
                "largest_difference": f"{largest:.2e}",
                "largest_logit": f"{scale:.2f}",
                "budget": "1e-4",
            }
        )
    print(append_rows("exactness", rows))


if __name__ == "__main__":
    main()
