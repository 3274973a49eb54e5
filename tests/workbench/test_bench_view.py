from __future__ import annotations

from collections import deque

from rich.console import Console

from headgate.workbench.bench.load import Progress
from headgate.workbench.bench.raw import Outcome, Plan
from headgate.workbench.bench.view import frame


def drawn(progress: Progress, now: float = 110.0) -> list[str]:
    console = Console(width=80, force_terminal=False)
    with console.capture() as shown:
        console.print(frame("http://127.0.0.1:8080  a-model-with-a-long-name" * 3, Plan(rate="5"), progress, now))
    return shown.get().splitlines()


def test_a_load_that_has_not_begun_can_be_drawn() -> None:
    lines = drawn(Progress())
    assert "due 0   in flight 0" in lines[2]
    assert "TTFT -   latency -" in lines[4]


def test_five_lines_say_how_far_it_is_and_how_it_goes() -> None:
    progress = Progress(started_at=100.0, due=1250, in_flight=12, waiting=3)
    progress.ended |= {Outcome.OK: 1200, Outcome.REFUSED: 38, Outcome.ERROR: 2}
    progress.reasons |= {"429 queue_full": 38, "cut": 2}
    progress.first_s = deque([(90.0, 9.0), (109.0, 0.2), (109.5, 0.4)])
    progress.latency_s = deque([(109.0, 1.0)])
    progress.tokens_at = deque([(109.0, 500.0)])
    lines = drawn(progress)
    assert len(lines) == 5
    assert max(map(len, lines)) <= 80
    assert "10 s of 30 s" in lines[1]
    assert lines[2] == "due 1,250   in flight 12 (3 of them told to come back later)"
    assert lines[3] == "answered 1,200   refused 38   errors 2   mostly 429 queue_full"
    assert lines[4].startswith("last 5 s: 0.2 answers/s, 100 tokens/s   TTFT 200 ms / 400 ms")


def test_a_client_that_is_late_itself_says_so_while_there_is_time_to_stop_it() -> None:
    progress = Progress(started_at=100.0, late_s=0.25, draining=True)
    lines = drawn(progress)
    assert "waiting for the last answers" in lines[1]
    assert lines[5] == "this client is 250 ms late itself"
