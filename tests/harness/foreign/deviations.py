"""How far a model that transformers computes over our cache is from transformers alone, in float32.

`python -m harness.foreign.deviations` measures it of every architecture and prints docs/models.md.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Final

import torch

from harness.foreign.architectures import ARCHITECTURES, write_foreign_checkpoint
from lengthwise_checkpoint.families import read_config
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.models.foreign.loader import load_foreign
from lengthwise_engine.models.foreign.model import ForeignModel
from lengthwise_engine.models.foreign.skeleton import read_foreign_spec
from lengthwise_engine.models.foreign.spec import ForeignSpec
from lengthwise_engine.models.step import StepTensors
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_engine.runner.step_tensors import lay_out_step
from lengthwise_kernels.staging import to_device

DOCUMENT: Final = Path(__file__).parents[3] / "docs/models.md"
WAYS: Final = ("in a batch", "in chunks", "after a cached prefix", "after a transfer")
NUM_BLOCKS: Final = 24


class Computing:
    """Steps of a model over a cache of its own, full of NaN."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        config = read_config(folder)
        spec = read_foreign_spec(config)
        self.model: ForeignModel = load_foreign(config, spec, torch.device("cpu"), dtype)
        layout = KVLayout.of(spec, block_size=16, dtype=str(dtype).removeprefix("torch."))
        shape = (layout.num_layers, NUM_BLOCKS, 2, 16, layout.num_kv_heads, layout.head_dim)
        self.cache = torch.full(shape, float("nan"), dtype=dtype)

    def moved(self, blocks: Sequence[int], to: Sequence[int]) -> "Computing":
        """The same model over another cache, which got these blocks alone."""
        other = copy(self)
        other.cache = torch.full_like(self.cache, float("nan"))
        other.cache[:, list(to)] = self.cache[:, list(blocks)]
        return other

    @torch.inference_mode()
    def logits(self, *chunks: tuple[Sequence[int], int, Sequence[int]]) -> torch.Tensor:
        """After the last token of each: (all tokens, how many of them are cached, blocks)."""
        rows = [
            SequenceChunk(
                token_ids=tokens[start:],
                start=start,
                block_ids=blocks,
                sampling=SamplingState(
                    sampling=SamplingParameters(temperature=0.0),
                    token_ids=tokens,
                    num_prompt_tokens=len(tokens),
                ),
            )
            for tokens, start, blocks in chunks
        ]
        layout = lay_out_step(
            rows, windows=self.model.windows, block_size=16, attention=self.model.attention
        )
        step = StepTensors.bind(layout.form, to_device(layout.arrays, self.model.device))
        return self.model.forward(step, self.cache)


def prompt(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(1000 * seed + length)
    return torch.randint(256, (length,), generator=generator).tolist()


@torch.inference_mode()
def reference_logits(folder: Path, *prompts: Sequence[int]) -> torch.Tensor:
    """Of transformers alone, one prompt at a time."""
    from transformers import AutoModelForCausalLM

    load: Callable[..., Any] = AutoModelForCausalLM.from_pretrained
    reference = load(folder, dtype=torch.float32, attn_implementation="eager").eval()
    rows = [reference(torch.tensor([list(each)])).logits[0, -1] for each in prompts]
    return torch.stack(rows).float()


def deviations(folder: Path) -> Mapping[str, float]:
    """The largest difference of a logit, for each of `WAYS`."""
    computing = Computing(folder)
    long, short, other = prompt(75), prompt(17), prompt(1)
    branch = [*long[:32], *prompt(9, seed=1)]
    computed = {
        "in a batch": computing.logits((short, 0, [5, 6]), (long[:20], 0, [3, 9]), (other, 0, [7])),
        "in chunks": computing.logits((long[:61], 20, [3, 9, 11, 2]), (short, 16, [5, 6]))[:1],
        "after a cached prefix": computing.logits((branch, 32, [3, 9, 1])),
        "after a transfer": computing.moved([3, 9, 11, 2], [8, 20, 1, 0]).logits(
            (long, 61, [8, 20, 1, 0, 13]), (long[:62], 61, [8, 20, 1, 0])
        ),
    }
    expected = reference_logits(folder, short, long[:20], other, long[:61], branch, long, long[:62])
    assert len(set(expected.argmax(-1).tolist())) > 2, "degenerate logits prove little"
    counts = [len(logits) for logits in computed.values()]
    pairs = zip(computed.items(), torch.split(expected, counts), strict=True)
    return {way: float((got - wanted).abs().max()) for (way, got), wanted in pairs}


def peculiarities(spec: ForeignSpec) -> str:
    """What its layers ask of attention and cache beyond the plain."""
    call = spec.calls[-1]
    found = {
        "windows": any(spec.windows),
        "soft caps": any(each.cap for each in spec.calls),
        "sinks": call.has_sinks,
        "values narrower than keys": call.value_size != call.key_size,
        "a scale of its own": abs(call.scale - call.key_size**-0.5) > 1e-6,
    }
    return ", ".join(name for name, is_so in found.items() if is_so)


def rows() -> list[str]:
    """Of the table in `DOCUMENT`, measured here."""
    result = []
    for architecture in ARCHITECTURES:
        with tempfile.TemporaryDirectory() as name:
            folder = write_foreign_checkpoint(Path(name), architecture)
            found = deviations(folder)
            spec = read_foreign_spec(read_config(folder))
        cells = [f"`{architecture}`", *(f"{found[way]:.0e}" for way in WAYS), peculiarities(spec)]
        result.append(f"| {' | '.join(cells)} |")
    return result


def main() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    head, mark, rest = text.partition("| architecture |")
    _, gap, tail = rest.partition("\n\n")
    columns = ["architecture", *WAYS, "beyond plain attention"]
    ruler = "|".join(["---"] * len(columns))
    table = "\n".join([f"| {' | '.join(columns)} |", f"|{ruler}|", *rows()])
    assert mark, f"{DOCUMENT} has no table"
    print(f"{head}{table}{gap}{tail}", end="")


if __name__ == "__main__":
    main()
