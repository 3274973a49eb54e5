from __future__ import annotations

import io

import pytest
from rich.console import Console

from headgate.workbench.top.frame import Frame
from headgate.workbench.top.picture import Engine, Load, Queue, Slots, Status
from headgate.workbench.top.rates import Reading, between

BUSY = Status(
    "1.2.3",
    True,
    "ready",
    95_000.0,
    Slots(256, 256),
    Queue("queue", 60, 64, 28.4, 30.0),
    [Engine("e0", "vllm", "ready", 95_000.0, models=["Qwen/Q"], slots=256, in_flight=256, running=256, kv_usage=0.97)],
)
REFUSALS = {"queue_full": 123_456.0, "queue_timeout": 7_890.0, "engine_unavailable": 12.0, "rate_limited": 5.0}


def drawn(frame: Frame, width: int = 80, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), record=True, force_terminal=True)
    console.print(frame)
    return console.export_text().splitlines()


def frame(status: Status, **more: object) -> Frame:
    rates = between(Reading(0.0), Reading(10.0, refused=REFUSALS, ended={"ok": 90.0}))
    given: dict[str, object] = {"reading": Reading(0.0, refused=REFUSALS), "rates": rates, "hint": "Ctrl-C ends"}
    return Frame("http://127.0.0.1:8080", "03:00:00", status, **given | more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (60, 20)])
def test_a_busy_gateway_fits_the_terminal(width: int, height: int) -> None:
    lines = drawn(frame(BUSY), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_slots_line_and_engine_are_told_in_words() -> None:
    text = "\n".join(drawn(frame(BUSY)))
    assert "256 of 256 held" in text
    assert "60 of 64 wait, oldest 28 s" in text
    assert "KV ██████ 97%" in text
    for reason, count in REFUSALS.items():
        assert f"{reason} {count:,.0f} (" in text


def test_forty_engines_fit_with_those_in_trouble_first() -> None:
    engines = [Engine(f"e{n}", "vllm", "ready", slots=8) for n in range(39)]
    engines.append(Engine("e39", "vllm", "failed", failure="ended by itself: exit status 1", last_lines=["CUDA oom"]))
    lines = drawn(frame(Status("1", True, engines=engines)))
    assert len(lines) <= 24
    listed = [line for line in lines if line.startswith("e")]
    assert listed[0].startswith("e39 FAILED")
    assert any("more: " in line for line in lines)


def test_a_failed_engine_is_shown_with_its_last_words_uncut() -> None:
    last = "ValueError: " + "free memory on the device is less than what was asked for " * 2 + "END"
    broken = Engine("e0", "vllm", "backoff", failure="ended by itself", last_lines=["", last], starts={"crash": 3})
    text = "\n".join(drawn(frame(Status("1", False, "starting", engines=[broken]))))
    assert "NOT READY: starting" in text
    assert "END" in text
    assert "3 by crash" in text


def test_a_loading_engine_shows_its_phase_and_how_long_it_takes() -> None:
    loading = Engine("e0", "vllm", "starting", load=Load("loading weights", 0.45), eta_s=23.0)
    text = "\n".join(drawn(frame(Status("1", False, "starting", engines=[loading]))))
    assert "loading weights" in text
    assert "45%   about 23 s left" in text


def test_an_old_picture_is_never_shown_as_a_fresh_one() -> None:
    text = "\n".join(drawn(frame(BUSY, trouble="nothing listens there", age_s=12.0)))
    assert "NOT REACHED" in text
    assert "12 s ago" in " ".join(text.split())
    assert "READY  up" not in text


def test_with_no_picture_at_all_it_says_why() -> None:
    text = "\n".join(drawn(Frame("http://x", "03:00:00", trouble="nothing listens there")))
    assert "nothing listens there" in text


def test_in_reject_mode_there_is_no_line_to_show() -> None:
    text = "\n".join(drawn(frame(Status("1", True, queue=Queue("reject", 0, 64)))))
    assert "QUEUE_MODE=reject" in text
