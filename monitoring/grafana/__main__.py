"""Write the dashboards' JSON: ``python -m monitoring.grafana [FOLDER]``."""

from __future__ import annotations

import sys
from pathlib import Path

from monitoring.grafana.boards import BOARDS
from monitoring.grafana.page import to_json

DASHBOARDS = Path(__file__).parent / "dashboards"


def main(folder: Path = DASHBOARDS) -> None:
    """Write every dashboard, and remove what is none any more."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {board.uid.removeprefix("headgate-") + ".json": to_json(board) for board in BOARDS}
    for old in folder.glob("*.json"):
        if old.name not in written:
            old.unlink()
    for name, text in written.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
