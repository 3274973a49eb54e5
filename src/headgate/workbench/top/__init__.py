"""``headgate top``: the gateway in a terminal, anew each second.

When to look, and what to do when nobody answers, is decided here: the live view says so and keeps trying, a single
frame ends with status 1. Reading (``source``), reckoning (``rates``) and drawing (``frame``) are files of their own.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from datetime import datetime

import msgspec
from rich.console import Console
from rich.live import Live

from headgate.api.generation import ENDPOINTS
from headgate.workbench.top.frame import Frame
from headgate.workbench.top.rates import Rates, Reading, Window, read
from headgate.workbench.top.source import NotReached, Picture, Source

URL = "http://127.0.0.1:8080"

SEEN = 0
NOT_SEEN = 1

_WORK = frozenset(path for path, endpoint in ENDPOINTS.items() if endpoint.gated)


def run(
    url: str = URL, interval_s: float = 1.0, once: bool = False, as_json: bool = False, key: str | None = None
) -> int:
    """Show the gateway until Ctrl-C; its exit status: 0, or 1 where it can't be seen.

    Args:
        url: the gateway.
        interval_s: between two looks.
        once: print one frame (of two looks ``interval_s`` apart) and end; so it is, too, with no terminal.
        as_json: print the same as one JSON object and end.
        key: for a gateway with OPS_AUTH=key.
    """
    console = Console(highlight=False)
    view = _View(Source(url, key))
    try:
        if as_json or once or not console.is_terminal:
            return view.once(console, interval_s, as_json=as_json)
        return view.live(console, interval_s)
    except KeyboardInterrupt:
        return SEEN
    finally:
        view.source.close()


class _View:
    """What was seen last."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._window = Window()
        self._picture: Picture | None = None
        self._reading: Reading | None = None
        self._trouble: str | None = None

    def once(self, console: Console, interval_s: float, *, as_json: bool) -> int:
        """One frame."""
        try:
            self._look()
            time.sleep(interval_s)
            self._look()
        except NotReached as error:
            if as_json:
                _print_json({"url": self.source.url, "reached": False, "problem": str(error)})
            else:
                console.print(f"Can't reach {self.source.url}: {error}.", style="bold red", markup=False)
            return NOT_SEEN
        if as_json:
            assert self._picture is not None
            rates = self._window.rates()
            picture: dict[str, object] = {
                "url": self.source.url,
                "reached": True,
                "at": _now().isoformat("T", "seconds"),
            }
            _print_json({**picture, "rates": _numbers(rates), "status": self._picture.raw})
        else:
            console.print(self._frame())
        return SEEN

    def live(self, console: Console, interval_s: float) -> int:
        """Frame after frame on the terminal's other screen. A wrong key never mends itself, and ends it."""
        with Live(console=console, screen=True, auto_refresh=False) as screen:
            due = time.monotonic()
            while True:
                try:
                    self._look()
                    self._trouble = None
                except NotReached as error:
                    self._trouble = str(error)
                    if error.lasting:
                        break
                hint = f"every {interval_s:g} s; Ctrl-C ends"
                screen.update(self._frame(hint), refresh=True)
                due = max(due + interval_s, time.monotonic())
                time.sleep(max(0.0, due - time.monotonic()))
        console.print(f"Can't look at {self.source.url}: {self._trouble}.", style="bold red", markup=False)
        return NOT_SEEN

    def _look(self) -> None:
        picture = self.source.look()
        self._picture = picture
        self._reading = read(time.monotonic(), picture.status, picture.metrics, _WORK)
        self._window.add(self._reading)

    def _frame(self, hint: str = "") -> Frame:
        return Frame(
            self.source.url,
            _now().strftime("%H:%M:%S"),
            self._picture.status if self._picture else None,
            self._reading,
            self._window.rates(),
            self._trouble,
            time.monotonic() - self._reading.at_s if self._reading else 0.0,
            hint,
        )


def _now() -> datetime:
    return datetime.now().astimezone()


def _numbers(rates: Rates | None) -> dict[str, object] | None:
    if rates is None:
        return None
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(rates).items()}


def _print_json(content: dict[str, object]) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(content)).decode() + "\n")
