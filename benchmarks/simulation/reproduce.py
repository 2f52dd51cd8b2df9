"""All reproductions. Run `python -m simulation.reproduce`; rows go to
benchmarks/data/reproduction.csv."""

from rows import append_rows

from simulation.disciplines import rows_of_disciplines
from simulation.distserve import rows_of_distserve


def main() -> None:
    table = []
    for rows in (rows_of_distserve(), rows_of_disciplines()):
        for row in rows:
            print(*row.values(), sep=" | ", flush=True)
            table.append(row)
    append_rows("reproduction", table)


if __name__ == "__main__":
    main()
