"""What people are told of the version: that the road is compiled, where it is."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from click.testing import CliRunner

import headgate
from headgate import __version__, errand, told_version
from headgate.cli import main


def test_compiled_is_what_the_loaded_road_is() -> None:
    assert headgate.is_compiled() == (not str(errand.__file__).endswith(".py"))


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["errand.py"], __version__),
        (["errand.py", f"errand{EXTENSION_SUFFIXES[0]}"], f"{__version__} (compiled)"),
        ([], __version__),
    ],
)
def test_a_road_that_is_not_loaded_is_judged_by_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], told: str
) -> None:
    """A wheel has both: the module's source lies beside what was compiled of it, which Python takes."""
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(headgate, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "headgate.errand")
    assert told_version() == told


def test_command_tells_it_without_loading_the_road() -> None:
    code = "import sys; sys.argv[1:] = ['--version']\n"
    code += "import headgate.cli as cli; cli.main(standalone_mode=False); print('headgate.errand' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ran.stdout.splitlines() == [f"headgate {told_version()}", "False"]


def test_check_begins_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(main, ["check", "--port", "0", "--cache-dir", str(tmp_path)]).output
    assert said.startswith(f"Headgate {told_version()} looks at this machine for `headgate serve")
