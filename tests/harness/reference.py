"""What `transformers` answers to a prompt: the truth about real checkpoints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

DEMO_MODEL = Path(__file__).parents[2] / "engine/lengthwise_engine/demo_model"


class Reference:
    """A checkpoint in float32 with its tokenizer, greedy. No code of ours computes here."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        # As temperature 0 and `ignore_eos`; its other parameters stay, a penalty for one.
        config: Any = self._model.generation_config
        config.update(do_sample=False, temperature=None, top_p=None, eos_token_id=None)

    @torch.inference_mode()
    def token_ids(self, prompt: str, num_tokens: int) -> tuple[int, ...]:
        """Of a text, however many special tokens its tokenizer puts in front."""
        ids = self.tokenizer.encode(prompt).ids
        rows = self._model.generate(torch.tensor([ids]), max_new_tokens=num_tokens)
        return tuple(rows[0, len(ids) :].tolist())

    def text(self, token_ids: Sequence[int]) -> str:
        """Without special tokens."""
        return str(self.tokenizer.decode(list(token_ids)))
