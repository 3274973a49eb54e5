"""Says the seed, whatever comes of it."""

from __future__ import annotations

from tests.fuzz import TOLD


def pytest_report_header() -> str:
    return f"fuzzing: {TOLD}"


def pytest_terminal_summary(terminalreporter: object) -> None:
    terminalreporter.write_line(f"fuzzing: {TOLD}")  # type: ignore[attr-defined]
