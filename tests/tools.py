"""Programs that some tests run for real: Prometheus, a browser. ``tests/tools.sh`` gets them; here they are found.

Where one is missing the test that needs it is skipped, with the reason in pytest's summary.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

_UNPACKED = Path(__file__).parents[1] / ".tools" / "usr" / "bin"


def tool(name: str) -> str:
    """The path of a program; skips the test where it is not here."""
    found = shutil.which(name) or shutil.which(name, path=_UNPACKED)
    if found is None:
        pytest.skip(f"{name} is not here (sh tests/tools.sh gets it where it may)")
    return found
