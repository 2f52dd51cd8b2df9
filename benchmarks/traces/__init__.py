"""The traces that ship with the benchmarks, and how any trace is opened."""

import gzip
from pathlib import Path
from typing import Final, TextIO

_HERE: Final = Path(__file__).parent

AZURE_CONVERSATIONS: Final = _HERE / "azure_llm_2023_conv.csv.gz"
SHAREGPT_LENGTHS: Final = _HERE / "sharegpt_lengths.csv.gz"


def open_trace(path: Path) -> TextIO:
    """For reading as CSV; gzipped if its name ends in .gz.

    Errors: ValueError when there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such trace; name one with --trace")
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")
