"""What is compiled where that is asked for (hatch_build.py): what mypyc breaks without a word is not on the list."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["modules"]


@pytest.mark.parametrize("name", MODULES)
def test_a_compiled_module_is_there_and_decodes_no_records_of_its_own(name: str) -> None:
    source = (ROOT / "src/headgate" / f"{name}.py").read_text()
    assert not re.search(r"json\.Decoder\(|json\.decode\(|msgspec\.convert\(", source), "its records are shapes.py's"
