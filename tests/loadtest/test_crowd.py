"""The crowd in front of the gateway, a small one: that the tool runs, and says no where it is to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("limit_mb", "status"), [("300", 0), ("10", 1)])
def test_it_tells_memory_and_whether_it_is_over_the_limit(limit_mb: str, status: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "loadtest.crowd", "--streams", "3", "--waiting", "20", "--limit-mb", limit_mb],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert ended.returncode == status, ended.stderr
    rows = [line.split("|")[1].strip() for line in ended.stdout.splitlines() if line.startswith("|")]
    assert rows[2:] == ["idle", "3 streams", "and 20 who wait", "those who waited have left", "the most at any time"]
