"""How long starts took before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.pool.history import KEPT, History

if TYPE_CHECKING:
    from pathlib import Path

DURATIONS_S = st.lists(st.floats(0.1, 1000), min_size=1, max_size=12)


def test_nobody_can_tell_before_the_first_start() -> None:
    assert History().eta_s("vllm:m:1", 0) is None


def test_the_median_less_what_has_passed_remains() -> None:
    history = History()
    for duration_s in (40, 50, 90):
        history.record("k", duration_s)
    assert history.eta_s("k", 0) == 50
    assert history.eta_s("k", 20) == 30
    assert history.eta_s("other", 0) is None


def test_a_start_that_is_slower_than_most_is_judged_by_the_slow_ones() -> None:
    history = History()
    for duration_s in (40, 50, 90):
        history.record("k", duration_s)
    assert history.eta_s("k", 60) == 30


@settings(deadline=None)
@given(DURATIONS_S, st.floats(0, 2000))
def test_an_estimate_is_a_second_at_least_and_never_more_than_the_slowest_left_or_the_delay_so_far(
    durations_s: list[float], elapsed_s: float
) -> None:
    history = History()
    for duration_s in durations_s:
        history.record("k", duration_s)
    eta_s = history.eta_s("k", elapsed_s)
    assert eta_s is not None
    assert 1.0 <= eta_s <= max(1.0, abs(max(durations_s[-KEPT:]) - elapsed_s) + 0.01)


def test_a_start_that_takes_longer_than_any_is_not_about_to_be_done() -> None:
    """A start that hung was a second from its end for as long as it hung."""
    history = History()
    history.record("k", 40)
    assert history.eta_s("k", 41) == 1
    assert history.eta_s("k", 340) == 300


def test_the_last_few_durations_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "state" / "starts.json"
    first = History(path)
    for duration_s in range(1, KEPT + 3):
        first.record("k", duration_s)
    assert History(path).eta_s("k", 0) == sum(range(3, KEPT + 3)) / KEPT
    assert [found.name for found in path.parent.iterdir()] == ["starts.json"]


def test_two_gateways_share_the_file(tmp_path: Path) -> None:
    path = tmp_path / "starts.json"
    one, other = History(path), History(path)
    one.record("a", 10)
    other.record("b", 20)
    assert History(path).eta_s("a", 0) == 10
    assert History(path).eta_s("b", 0) == 20


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"k": "x"}', b"\xff\xfe", b'{"k": []}'])
def test_a_broken_file_costs_an_estimate_and_is_mended_by_the_next_start(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "starts.json"
    path.write_bytes(content)
    history = History(path)
    assert history.eta_s("k", 0) is None
    history.record("k", 5)
    assert History(path).eta_s("k", 0) == 5


def test_a_path_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    history = History(tmp_path / "file" / "starts.json")
    history.record("k", 5)
    assert history.eta_s("k", 0) == 5
