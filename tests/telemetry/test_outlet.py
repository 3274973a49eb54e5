"""The log's way out: nothing waits for whoever reads it, and what is lost for that is said."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from headgate.telemetry.outlet import Outlet

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """What is read from, and what is written to."""
    reads, writes = os.pipe()
    yield reads, writes
    for end in (reads, writes):
        with suppress(OSError):  # closed by the test
            os.close(end)


def read(end: int, size: int) -> str:
    """So many characters, waited for."""
    told = b""
    while len(told) < size:
        told += os.read(end, size - len(told))
    return told.decode()


def fill(end: int) -> int:
    """Until it takes nothing more: how many bytes those are."""
    os.set_blocking(end, False)
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += os.write(end, b"\n" * 4096)
    os.set_blocking(end, True)
    return filled


def test_lines_go_out_in_their_order_and_all_of_them_at_the_end(pipe: Pipe) -> None:
    with closing(Outlet(pipe[1])) as outlet:
        for number in range(100):
            outlet.write(f"{number:03d} ü\n")
    os.close(pipe[1])
    told = b"".join(iter(lambda: os.read(pipe[0], 65536), b"")).decode()
    assert told.splitlines() == [f"{number:03d} ü" for number in range(100)]


def test_nobody_waits_for_a_reader_that_takes_nothing_and_what_is_lost_is_said(
    pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole gateway stood still as soon as the pipe was full, and so did /health."""
    line = "x" * 999 + "\n"
    filled = fill(pipe[1])
    outlet = Outlet(pipe[1], most=400 * len(line))
    for _ in range(1000):
        outlet.write(line)
    with caplog.at_level(logging.WARNING):
        assert read(pipe[0], filled + 400 * len(line)) == "\n" * filled + 400 * line
        outlet.close(within_s=60.0)
    (record,) = caplog.records
    assert record.getMessage() == "600 lines of the log were lost: they are not taken as fast as they come"


def test_what_is_lost_behind_the_last_line_is_said_too(pipe: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    """It was said with the next line, and at an end there is none."""
    filled = fill(pipe[1])
    outlet = Outlet(pipe[1], most=2)
    outlet.write("1\n")
    while outlet._texts:  # until the thread is about to write it
        pass
    outlet.write("2\n")
    with caplog.at_level(logging.WARNING):
        assert read(pipe[0], filled + 2) == "\n" * filled + "1\n"
        outlet.close(within_s=60.0)
    (record,) = caplog.records
    assert record.getMessage().startswith("1 lines of the log were lost")


def test_file_that_does_not_block_loses_nothing(pipe: Pipe) -> None:
    """A parent that shares it may have made it so; half a line went out then."""
    line = "x" * 200_000 + "\n"  # more than a pipe holds
    os.set_blocking(pipe[1], False)
    outlet = Outlet(pipe[1])
    outlet.write(line)
    assert read(pipe[0], len(line)) == line
    outlet.close(within_s=60.0)


def test_end_does_not_wait_for_a_reader_that_takes_nothing(pipe: Pipe) -> None:
    fill(pipe[1])
    outlet = Outlet(pipe[1])
    outlet.write("x\n")
    outlet.close(within_s=0.0)


def test_pipe_that_is_closed_loses_lines_and_ends_nothing(pipe: Pipe) -> None:
    os.close(pipe[0])
    with closing(Outlet(pipe[1])) as outlet:
        outlet.write("lost\n")
    assert outlet.write("lost\n") == 5
