"""One frame of the live view, drawn into whatever terminal there is; 80 columns by 24 lines suffice.

From the top: what is asked first at night. Engines come last, since there may be many: those in trouble first, and
as many as fit. Words carry the meaning, colours only repeat it. It asks nobody and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from headgate.workbench.check.finding import size
from headgate.workbench.top.engines import engine_lines
from headgate.workbench.top.machine import cost_text, gpu_lines
from headgate.workbench.top.picture import Status
from headgate.workbench.top.rates import Rates, Reading
from headgate.workbench.top.words import bar, rate, span

_LABEL = 9
_TALL = 30
_GPUS = 8
_GPUS_IN_FEW_LINES = 2


@dataclass(frozen=True, slots=True)
class Frame:
    """What is drawn.

    Attributes:
        url: the gateway.
        clock: the time of day, as it is shown.
        status: the last picture; None if there never was one.
        reading: its counters.
        rates: over the window; None until two pictures are there.
        trouble: why there is no newer picture; None where it is fresh.
        age_s: of the picture.
        hint: the last line.
    """

    url: str
    clock: str
    status: Status | None = None
    reading: Reading | None = None
    rates: Rates | None = None
    trouble: str | None = None
    age_s: float = 0.0
    hint: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, plain = options.max_width, options.ascii_only
        height = options.height or console.height
        lines = [self._head(width)]
        if self.trouble is not None:
            lines += _wrapped(self._trouble(), width, console)
        if self.status is not None:
            body = list(self._body(self.status, width, plain))
            foot = [Text(), *self._machine(self.status, width, height, plain)]
            room = height - len(lines) - len(body) - len(foot) - (2 if self.hint else 1)
            body += engine_lines(self.status.engines, width, max(room, 1), plain)
            if self.trouble is not None:
                for line in (*body, *foot):
                    line.stylize("dim")
            lines += [*body, *foot]
        if self.hint:
            lines.append(Text(self.hint, "dim"))
        for line in lines[:height]:
            line.truncate(width, overflow="ellipsis")
            line.no_wrap = True
            yield line

    def _head(self, width: int) -> Text:
        left = Text.assemble(("Headgate", "bold"), f" {self.status.version}" if self.status else "", f"  {self.url}")
        if self.status is None or self.trouble is not None:
            right = Text.assemble(("NOT REACHED", "bold red"), f"  {self.clock}")
        else:
            well = ("READY", "bold green") if self.status.ready else (f"NOT READY: {self.status.reason}", "bold red")
            right = Text.assemble(well, f"  up {span(self.status.uptime_s)}  {self.clock}")
        left.truncate(max(20, width - right.cell_len - 2), overflow="ellipsis")
        left.append(" " * max(1, width - left.cell_len - right.cell_len))
        return left.append_text(right)

    def _trouble(self) -> Text:
        text = Text(f"No answer to be had: {self.trouble}. It is asked again and again.", "bold red")
        if self.status is not None:
            text.append(f" Below is how it was {span(self.age_s)} ago.")
        return text

    def _body(self, status: Status, width: int, plain: bool) -> Iterator[Text]:
        slots, queue = status.slots, status.queue
        wide = max(10, min(48, width - _LABEL - 34))
        yield Text()
        share = slots.active / slots.max_active if slots.max_active else 0.0
        drawn = bar(share, wide, ascii_only=plain)
        held = f"{slots.active} of {slots.max_active} held" if slots.max_active else "none: no engine is ready"
        yield _row("slots", Text.assemble((drawn, _heat(share, 1.01, 2)), f"  {held}"))
        if queue.mode == "reject":
            yield _row("line", Text("none: QUEUE_MODE=reject refuses who finds no free slot"))
        else:
            yield self._line(status, wide, plain)
        yield Text()
        yield from self._rates()
        yield from self._ends(width)
        yield Text()

    def _line(self, status: Status, wide: int, plain: bool) -> Text:
        queue = status.queue
        share = queue.depth / queue.max if queue.max else 0.0
        late = queue.oldest_wait_s / queue.timeout_s if queue.timeout_s and status.slots.max_active else 0.0
        text = Text.assemble((bar(share, wide, ascii_only=plain), _heat(share)), f"  {queue.depth} of {queue.max} wait")
        if queue.depth:
            text.append(f", oldest {span(queue.oldest_wait_s)}", _heat(late) if late > 0.5 else "")
        return _row("line", text)

    def _rates(self) -> Iterator[Text]:
        rates = self.rates
        if rates is None:
            yield _row("requests", Text("measuring …", "dim"))
            return
        yield _row(
            "requests",
            Text.assemble(
                (f"{rate(rates.requests_per_s)}/s", "bold"),
                f"   {rate(rates.ok_per_s)} ok",
                (f"   {rate(rates.refused_per_s)} refused", "yellow" if rates.refused_per_s else ""),
                f"   {rate(rates.left_per_s)} left",
                (f"   {rate(rates.failed_per_s)} failed", "bold red" if rates.failed_per_s else ""),
                (f"   (last {span(rates.over_s)})", "dim"),
            ),
        )
        yield _row(
            "tokens",
            Text.assemble(
                (f"{rate(rates.tokens_out_per_s)}/s out", "bold"),
                f"   {rate(rates.tokens_in_per_s)}/s in",
                ("  (ended answers)", "dim"),
                f"   {rate(rates.events_per_s)} events/s streamed",
            ),
        )
        yield _row(
            "times",
            Text.assemble(
                "first token ",
                (f"p50 {span(rates.ttft_p50_s)}  p95 {span(rates.ttft_p95_s)}", "bold"),
                f"   wait p95 {span(rates.queue_wait_p95_s)}   gap p95 {span(rates.inter_token_p95_s)}",
            ),
        )

    def _ends(self, width: int) -> Iterator[Text]:
        reading, rates = self.reading, self.rates
        refused, left = (reading.refused, reading.left) if reading is not None else ({}, {})
        now = rates.refused_by_reason_per_s if rates is not None else {}
        parts: list[Text] = []
        for reason, count in sorted(refused.items(), key=lambda pair: (-now.get(pair[0], 0.0), -pair[1])):
            pace = now.get(reason, 0.0)
            part = f"{reason} {count:,.0f}" + (f" ({rate(pace)}/s)" if pace else "")
            parts.append(Text(part, "yellow" if pace else ""))
        yield from _rows("refused", parts, width)
        yield from _rows("left", [Text(f"{stage} {count:,.0f}") for stage, count in sorted(left.items())], width)

    def _machine(self, status: Status, width: int, height: int, plain: bool) -> Iterator[Text]:
        room = _GPUS if height >= _TALL else _GPUS_IN_FEW_LINES
        for label, text in gpu_lines(status, width, room, plain):
            yield _row(label, text)
        if status.cost is not None:
            yield _row("cost", cost_text(status.cost))
        yield _row("gateway", self._own(status))

    def _own(self, status: Status) -> Text:
        cpu = f"CPU {self.rates.cpu:.0%} of a core, " if self.rates is not None else ""
        return Text(f"{cpu}{size(status.process.resident_bytes)} of memory")


def _row(label: str, text: Text) -> Text:
    return Text.assemble((label.ljust(_LABEL), "cyan"), text)


def _rows(label: str, parts: list[Text], width: int) -> list[Text]:
    """Parts side by side, in as many rows as they need; totals since the gateway's start."""
    if not parts:
        return [_row(label, Text("nobody yet", "dim"))]
    rows: list[Text] = []
    for part in [*parts, Text("since the start", "dim")]:
        if rows and rows[-1].cell_len + 3 + part.cell_len <= width:
            rows[-1].append("   ").append_text(part)
        elif part.plain != "since the start":
            rows.append(_row(label if not rows else "", part))
    return rows


def _wrapped(text: Text, width: int, console: Console) -> list[Text]:
    return list(text.wrap(console, width))


def _heat(share: float, warm: float = 0.5, hot: float = 0.9) -> str:
    """Green, yellow or red. Full slots are as it should be; a full line is not."""
    return "red" if share >= hot else "yellow" if share >= warm else "green"
