"""What `--help` says: every default, no sentence cut short, and nothing that only a checkout has."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import get_args

import click
import pytest
from click.testing import CliRunner

from headgate import __main__
from headgate.cli import main
from headgate.settings import Settings, default_of
from headgate.simulator.cli import main as simulate
from headgate.simulator.faults import KINDS, Kind
from tests.house.test_docs import CONFIGURATION


def help_of(*words: str) -> str:
    """In one line, as on a terminal of 80 columns."""
    return " ".join(CliRunner().invoke(main, [*words], terminal_width=80).output.split())


def test_interrupt_before_there_is_a_command_shows_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    class Imported:
        @property
        def main(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "headgate.cli", Imported())
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 130


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_default_is_shown_and_is_that_of_the_docs(name: str) -> None:
    every = help_of("serve", "--help-all")
    flag = "MODEL" if name == "model" else f"--{name.replace('_', '-')}"
    assert re.search(rf" {flag} [^[]*\[{re.escape(default_of(name))}\]", every), f"{flag} shows no default"
    match = re.search(rf"^\| `{name.upper()}` \| (?:`([^`]*)`)?", CONFIGURATION, re.MULTILINE)
    assert match is not None
    assert (match[1] or "none") == default_of(name)


def test_short_help_shows_defaults_too() -> None:
    short = help_of("serve", "--help")
    assert "How many may wait. [64]" in short
    assert "Slots per engine. [auto]" in short
    assert "The key clients must send. [none]" in short


@pytest.mark.parametrize("command", list(main.commands.values()), ids=list(main.commands))
def test_summary_of_a_command_is_a_whole_sentence(command: click.Command) -> None:
    assert command.name is not None
    [line] = re.findall(rf"^  {command.name} +(.*)$", CliRunner().invoke(main, [], terminal_width=80).output, re.M)
    assert line.endswith(".")
    assert not line.endswith("..."), "it was cut"


def test_simulated_engine_tells_whoever_has_only_the_package() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "headgate", "simulate", "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert ran.stdout.startswith("Usage: headgate simulate ")
    assert ".py" not in ran.stdout
    assert " --fit " in ran.stdout
    for kind in KINDS:
        assert re.search(rf"^  {kind} +\S", ran.stdout, re.MULTILINE), kind
    assert set(KINDS) == set(get_args(Kind))


def test_fit_is_said_to_be_another_commands() -> None:
    ended = CliRunner().invoke(simulate, ["--fit"])
    assert (ended.exit_code, "headgate simulate --fit RAW" in ended.output) == (2, True)
