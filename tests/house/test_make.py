"""What ``make`` says where the machine isn't fit for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_python_that_is_too_old_is_named(tmp_path: Path) -> None:
    """pip ended on a package that nobody had asked for, and left an environment that the next try took."""
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.12 || exit 1\n')
    old.chmod(0o755)
    ran = subprocess.run(
        ["make", "run", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
        check=False,
    )
    assert ran.returncode != 0
    assert f"Python 3.11 or newer is needed, and {old} is Python 3.10.12." in ran.stderr
    assert not (tmp_path / "venv").exists()
