"""All reproductions. Run `python -m simulation.reproduce`; rows go to
benchmarks/data/reproduction.csv. Splitwise's designs need its splitwise_perf_model.csv: --splitwise
FILE (github.com/Mutinifni/splitwise-sim, data/perf_model.csv, MIT)."""

import argparse
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from rows import append_rows

from simulation.disciplines import rows_of_disciplines
from simulation.distserve import rows_of_distserve
from simulation.past_future import MIXES, rows_of_mix
from simulation.splitwise import rows_of_designs

Rows = Iterator[dict[str, object]]


def _printed(rows_of: Callable[[], Rows]) -> list[dict[str, object]]:
    table = []
    for row in rows_of():
        print(*row.values(), sep=" | ", flush=True)
        table.append(row)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splitwise", type=Path)
    parser.add_argument("--only", choices=("distserve", "laps", "past_future", "splitwise"))
    parser.add_argument("--processes", type=int, help="not given: one for each core")
    asked = parser.parse_args()
    parts: dict[str, list[Callable[[], Rows]]] = {
        "distserve": [rows_of_distserve],
        "laps": [rows_of_disciplines],
        "past_future": [partial(rows_of_mix, name) for name in MIXES],
        "splitwise": [partial(rows_of_designs, asked.splitwise)] if asked.splitwise else [],
    }
    if not parts["splitwise"]:
        print("Splitwise's designs are left out: name its table with --splitwise")
    chosen = [part for name in parts if asked.only in (None, name) for part in parts[name]]
    if not chosen:
        parser.error("--only splitwise: name its table with --splitwise")
    with ProcessPoolExecutor(asked.processes) as pool:
        tables = list(pool.map(_printed, chosen))
    append_rows("reproduction", [row for table in tables for row in table])


if __name__ == "__main__":
    main()
