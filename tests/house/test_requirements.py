"""The pinned lists agree with each other: what is tested is what runs, and what compiles."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parents[2] / "requirements"


def entries(name: str) -> set[str]:
    """A list's requirements, each with its markers and hashes."""
    return set(re.split(r"\n(?=\S)", (REQUIREMENTS / name).read_text().strip()))


@pytest.mark.parametrize(
    ("smaller", "larger"), [("run.txt", "build.txt"), ("run.txt", "load.txt"), ("build.txt", "dev.txt")]
)
def test_a_list_is_held_by_the_larger_one(smaller: str, larger: str) -> None:
    assert entries(smaller) <= entries(larger)


@pytest.mark.parametrize("name", ["run.txt", "build.txt", "dev.txt", "load.txt"])
def test_everything_is_pinned_and_hashed_and_no_index_is_named(name: str) -> None:
    for entry in entries(name):
        assert re.match(r"[\w.-]+==\S+( ; .+)? \\\n( +--hash=sha256:[0-9a-f]{64}( \\\n)?)+$", entry), entry
