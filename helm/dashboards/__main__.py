"""`python -m dashboards FOLDER`: writes one JSON file per dashboard."""

import sys
from pathlib import Path

from dashboards import autoscaling, kv_transfer, lengths, overview
from dashboards.board import to_json

BOARDS = (overview.BOARD, lengths.BOARD, kv_transfer.BOARD, autoscaling.BOARD)


def main() -> None:
    folder = Path(sys.argv[1])
    for board in BOARDS:
        (folder / f"{board.name}.json").write_text(to_json(board), encoding="utf-8")


if __name__ == "__main__":
    main()
