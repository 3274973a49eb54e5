"""A caller's trace context: what is valid goes on to the letter, what is not goes nowhere."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.telemetry.tracecontext import STATE_BYTES, TraceContext, read

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01".encode()
HEX = st.text("0123456789abcdef")


def test_parts_of_a_context_are_told() -> None:
    context = read([PARENT], [])
    assert context is not None
    assert (context.trace_id, context.span_id, context.flags) == (TRACE, SPAN, 1)
    assert context.header_lines() == b"traceparent: " + PARENT + b"\r\n"


@given(
    trace=st.text("0123456789abcdef", min_size=32, max_size=32).filter(lambda text: text.strip("0")),
    span=st.text("0123456789abcdef", min_size=16, max_size=16).filter(lambda text: text.strip("0")),
    flags=st.integers(0, 255),
)
def test_every_valid_parent_passes_unchanged(trace: str, span: str, flags: int) -> None:
    parent = f"00-{trace}-{span}-{flags:02x}".encode()
    context = read([b" " + parent + b"\t"], [])
    assert context == TraceContext(parent)
    assert (context.trace_id, context.span_id, context.flags) == (trace, span, flags)


@pytest.mark.parametrize(
    "parent",
    [
        b"",
        b"00",
        PARENT[:-1],
        PARENT + b"0",
        PARENT + b"-",
        PARENT + b"-more",
        PARENT.upper(),
        PARENT.replace(b"-", b"_"),
        b"ff" + PARENT[2:],
        PARENT.replace(TRACE.encode(), b"0" * 32),
        PARENT.replace(SPAN.encode(), b"0" * 16),
        PARENT.replace(b"0a", b"zz"),
        PARENT + b"\r\nx-injected: yes",
        PARENT + b"\n",
        b"\x00" + PARENT,
        b"01" + PARENT[2:] + b"-" + b"x" * 1000,
        b"01" + PARENT[2:] + b"-a\r\nb",
    ],
)
def test_parent_that_is_wrong_is_none(parent: bytes) -> None:
    assert read([parent], []) is None


def test_parent_of_a_later_version_may_have_more_to_it() -> None:
    context = read([b"01" + PARENT[2:] + b"-what-comes"], [])
    assert context is not None
    assert context.parent.endswith(b"-01-what-comes")


def test_two_parents_are_none() -> None:
    assert read([PARENT, PARENT], []) is None
    assert read([], [b"a=1"]) is None


@given(st.binary(max_size=80))
def test_whatever_is_sent_no_line_ends_in_what_goes_on(junk: bytes) -> None:
    for parents, states in (([junk], []), ([PARENT], [junk]), ([PARENT + junk], [b"a=1", junk])):
        context = read(parents, states)
        if context is not None:
            assert re.fullmatch(rb"traceparent: [!-~]+\r\n(tracestate: [ -~]+\r\n)?", context.header_lines())


@pytest.mark.parametrize(
    ("states", "state"),
    [
        ([], b""),
        ([b""], b""),
        ([b"rojo=00f067aa0ba902b7"], b"rojo=00f067aa0ba902b7"),
        ([b"a=1", b"b=2"], b"a=1,b=2"),
        ([b" a=1 , ,b=2\t"], b"a=1,b=2"),
        ([b"fw529a3039@dt=FfAA ok"], b"fw529a3039@dt=FfAA ok"),
        ([b"a=1,a=2"], b""),
        ([b"A=1"], b""),
        ([b"a"], b""),
        ([b"a=\xff"], b""),
        ([b"a=1\r\nx-injected: yes"], b""),
        ([b",".join(b"k%d=1" % number for number in range(33))], b""),
        ([b"a=" + b"x" * STATE_BYTES], b""),
    ],
)
def test_state_passes_in_order_or_not_at_all(states: list[bytes], state: bytes) -> None:
    context = read([PARENT], states)
    assert context is not None
    assert context.state == state
