"""A request's line: whole, one, and nothing that a caller sent can break out of it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import shlex

import pytest

from headgate.telemetry.logs import RequestLog, configure


def written(fields: dict[str, object], *, as_json: bool, level: str = "info", failed: bool = False) -> str:
    stream = io.StringIO()

    async def write() -> None:
        log = RequestLog(stream, as_json=as_json, level=level)
        log.write(fields, failed=failed)
        log.write(fields, failed=failed)
        log.flush()

    asyncio.run(write())
    return stream.getvalue()


def test_json_line_has_time_level_and_all_fields() -> None:
    lines = written({"status": 200, "detail": None, "text": "ä\n"}, as_json=True).splitlines()
    line, second = (json.loads(each) for each in lines)
    assert line == {**second, "time": line["time"]}  # a millisecond may pass between the two
    assert (line["level"], line["message"], line["status"], line["detail"]) == ("info", "request", 200, None)
    assert line["text"] == "ä\n"
    assert line["time"].endswith("Z")


def test_text_line_leaves_out_what_is_empty() -> None:
    first, _ = written({"status": 200, "detail": None, "engine": ""}, as_json=False).splitlines()
    assert first.endswith(" status=200")


def test_text_line_can_be_taken_apart_again() -> None:
    """A refusal's sentence has spaces, and what it says of a model may have anything."""
    fields: dict[str, object] = {"status": 503, "detail": 'The line is full; "a=b" waits.', "model": "ünlike/any"}
    first, _ = written(fields, as_json=False).splitlines()
    _, *pairs = shlex.split(first)
    assert dict(pair.split("=", 1) for pair in pairs) == {name: str(value) for name, value in fields.items()}


@pytest.mark.parametrize("evil", ["a\nb", "a\r\nb", "\x1b[2J", "a\u2028b", "a\x00b"])
def test_no_callers_word_breaks_a_line_or_reaches_the_terminal(evil: str) -> None:
    """A model's name with a line break in it made a line of its own."""
    lines = written({"detail": evil, "status": 404}, as_json=False).split("\n")
    assert len(lines) == 3
    assert lines[2] == ""
    assert lines[0].isprintable()


@pytest.mark.parametrize(
    ("level", "failed", "lines"),
    [("info", False, 2), ("debug", False, 2), ("warning", False, 0), ("warning", True, 2), ("error", True, 0)],
)
def test_level_decides_which_requests_are_written(level: str, failed: bool, lines: int) -> None:
    assert len(written({}, as_json=True, level=level, failed=failed).splitlines()) == lines


def test_stream_that_is_gone_costs_lines_and_no_request() -> None:
    stream = io.StringIO()

    async def write() -> None:
        log = RequestLog(stream, as_json=True, level="info")
        stream.close()
        log.write({}, failed=False)
        log.flush()
        log.flush()

    asyncio.run(write())


def test_librarys_records_are_json_too() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure(stream, as_json=True, level="info")
        try:
            raise ValueError("no")
        except ValueError:
            logging.getLogger("somebody").exception("it %s", "failed")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    line = json.loads(stream.getvalue())
    assert (line["logger"], line["level"], line["message"]) == ("somebody", "error", "it failed")
    assert "ValueError: no" in line["exception"]
