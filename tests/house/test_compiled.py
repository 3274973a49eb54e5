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
    decodes = r"json\.Decoder\((.*?)\)|json\.decode\(.*?, type=(.*?)\)|msgspec\.convert\(.*?, (.*?)\)"
    decoded = re.findall(decodes, source)
    types = [kind for found in decoded for kind in found if kind]
    assert all(re.match(r"shapes\.|(dict|list|tuple)\[", kind) for kind in types), "its records are shapes.py's"
