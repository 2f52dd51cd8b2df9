"""How often the sampling kernel reads a row of logits, counted in Triton's interpreter.

A pass is as many scores as the vocabulary has. Rows are normal, peaked as a model's (deviation 8),
flatter, or worse than any model's: equal scores, and the best ones in few of the kernel's columns.
"""

import importlib
import os
from collections.abc import Iterator
from typing import Any, Final

import torch
from rows import append_rows

from lengthwise_kernels.reference.penalties import Penalties

VOCABULARY: Final = 152_064
BLOCK: Final = 8192
SAMPLINGS: Final[dict[str, dict[str, float]]] = {
    "greedy": {"temperature": 0.0},
    "drawn": {},
    "min-p 0.1": {"min_p": 0.1},
    "top-k 50": {"top_k": 50},
    "top-p 0.9": {"top_p": 0.9},
    "top-k 50 and top-p 0.9": {"top_k": 50, "top_p": 0.9},
}


def rows_of_logits(vocabulary: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    in_few_columns = torch.zeros(1, vocabulary)
    in_few_columns[0, ::BLOCK] += 3.0
    return {
        "deviation 8": 8 * torch.randn(1, vocabulary),
        "deviation 3": 3 * torch.randn(1, vocabulary),
        "deviation 0.01": 0.01 * torch.randn(1, vocabulary),
        "best in few columns": in_few_columns,
        "equal": torch.zeros(1, vocabulary),
    }


def sample(logits: torch.Tensor, sampling: dict[str, float]) -> None:
    kernel = importlib.import_module("lengthwise_kernels.gpu.sampling")
    zero, one = torch.zeros(1, dtype=torch.int64), torch.ones(1)
    kernel.sample_tokens(
        logits,
        temperatures=torch.tensor([sampling.get("temperature", 1.0)]),
        seeds=zero,
        positions=zero,
        top_k=torch.tensor([int(sampling.get("top_k", 0))]),
        top_p=torch.tensor([sampling.get("top_p", 1.0)]),
        min_p=torch.tensor([sampling.get("min_p", 0.0)]),
        penalties=Penalties(
            counts=torch.zeros(1, logits.shape[1], dtype=torch.int32),
            slots=zero,
            repetition=one,
            presence=one,
            frequency=one,
        ),
    )


def rows() -> Iterator[dict[str, object]]:
    threshold: Any = importlib.import_module("lengthwise_kernels.gpu.sampling_threshold")
    kernel: Any = importlib.import_module("lengthwise_kernels.gpu.sampling")
    read, scores = threshold.read_scores, [0]

    def counted(row: Any, token: Any) -> Any:
        scores[0] += len(token.handle.data)
        return read(row, token)

    threshold.read_scores = kernel.read_scores = counted
    whole = -(-VOCABULARY // BLOCK) * BLOCK
    for name, logits in rows_of_logits(VOCABULARY).items():
        for asked, sampling in SAMPLINGS.items():
            scores[0] = 0
            sample(logits, sampling)
            yield {
                "vocabulary": VOCABULARY,
                "logits": name,
                "sampling": asked,
                "passes": f"{scores[0] / whole:.2f}",
            }


def main() -> None:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton looks at it when a kernel is imported
    table = []
    for row in rows():
        print(*row.values(), flush=True)
        table.append(row)
    append_rows("sampling_passes", table)


if __name__ == "__main__":
    main()
