"""The command lines of these tools: numbers that nothing can be measured with are refused in a line, at once.

Ctrl-C ends a tool without a traceback.
"""

from __future__ import annotations

import shlex
from argparse import ArgumentTypeError
from collections.abc import Callable
from math import isfinite
from typing import TypeVar

from headgate.workbench.bench.run import INTERRUPTED

T = TypeVar("T")


def status(main: Callable[[], int | None]) -> int:
    """What a tool exits with; interrupted, it leaves with the rows that it has printed."""
    try:
        return main() or 0
    except KeyboardInterrupt:
        return INTERRUPTED


def positive(text: str) -> float:
    """A number above 0."""
    number = _number(text)
    if number <= 0:
        raise ArgumentTypeError(f"{text!r} is not above 0")
    return number


def not_negative(text: str) -> float:
    """A number from 0."""
    number = _number(text)
    if number < 0:
        raise ArgumentTypeError(f"{text!r} is below 0")
    return number


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def listed(kind: Callable[[str], T], *, different: bool = True) -> Callable[[str], list[T]]:
    """Several, with commas between them."""

    def some(text: str) -> list[T]:
        found = [kind(part.strip()) for part in text.split(",") if part.strip()]
        if not found:
            raise ArgumentTypeError("none is given")
        if different and len(set(found)) < len(found):
            raise ArgumentTypeError(f"{text!r} has one of them twice")
        return found

    return some


def words(text: str) -> str:
    """Arguments for another program, as they are typed."""
    try:
        shlex.split(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r}: {error}") from None
    return text


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise ArgumentTypeError(f"{text!r} is no number")
    return number
