"""What a model that is loaded says of the token after a prompt."""

from pathlib import Path
from typing import Any

import torch

from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState

VOCABULARY = 320


def load(folder: Path, quantization: Any = "none", **options: Any) -> LoadedModel:
    return load_runner(
        folder,
        device="cpu",
        num_blocks=32,
        quantization=quantization,
        **options,
    )


def prompt(length: int) -> list[int]:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(VOCABULARY, (length,), generator=generator).tolist()


def logprobs(loaded: LoadedModel, length: int) -> torch.Tensor:
    """Of every token after a prompt; the model has 32 blocks."""
    tokens = prompt(length)
    sampling = SamplingParameters(temperature=0.0, top_logprobs=VOCABULARY)
    state = SamplingState(sampling=sampling, token_ids=tokens, num_prompt_tokens=length)
    chunk = SequenceChunk(token_ids=tokens, start=0, block_ids=range(32), sampling=state)
    (token,) = loaded.runner.run([chunk])
    assert token is not None
    found = dict(token.top_logprobs)
    return torch.tensor([found[index] for index in range(VOCABULARY)])
