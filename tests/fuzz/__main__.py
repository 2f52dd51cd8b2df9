"""Fuzzes a whole deployment: `python -m fuzz --seed 1 --messages 100000`. Exit code 1 when anything
was found; the same seed sends the same messages."""

import argparse
import asyncio
import csv
import math
import sys
import tempfile
import time
from pathlib import Path

from fuzz.deployment import fuzzed
from fuzz.fuzzing import fuzz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=math.inf, help="ends earlier after these")
    parser.add_argument("--csv", type=Path, help="write the row here")
    arguments = parser.parse_args()
    began_at = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, fuzzed(Path(folder)) as (cluster, spec):
        result = asyncio.run(
            fuzz(cluster, spec, arguments.seed, arguments.messages, arguments.seconds)
        )
    seconds = time.monotonic() - began_at
    row = {
        "seed": arguments.seed,
        "messages": result.num_messages,
        "seconds": round(seconds),
        "answered_ok": result.answers["OK"],
        "refused": sum(result.answers.values()) - result.answers["OK"] - result.answers["bytes"],
        "foreign_bytes": result.answers["bytes"],
        "troubles": len(result.troubles),
        "peak_mib": round(result.peak_mib),
    }
    print(row, dict(result.answers))
    print(*result.troubles, sep="\n")
    if arguments.csv is not None:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerow(row)
    sys.exit(bool(result.troubles))


if __name__ == "__main__":
    main()
