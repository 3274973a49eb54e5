"""Numbers for a person who glances at a screen: spans of time, rates, bars."""

from __future__ import annotations


def span(seconds: float | None) -> str:
    """``85 ms``, ``1.2 s``, ``42 s``, ``3 min 5 s``, ``2 h 10 min``, ``4 d 3 h``; ``-`` for None."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms" if seconds >= 0.00995 or seconds == 0 else f"{seconds * 1e3:.1f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for large, small, per in (("d", "h", 86400), ("h", "min", 3600), ("min", "s", 60)):
        if whole >= per:
            rest = whole % per // {86400: 3600, 3600: 60, 60: 1}[per]
            return f"{whole // per} {large} {rest} {small}" if rest else f"{whole // per} {large}"
    return f"{whole} s"


def rate(per_s: float) -> str:
    """``0``, ``0.4``, ``12.3``, ``1,240``; never a 0 for something that is there."""
    if per_s <= 0:
        return "0"
    if per_s < 0.05:
        return "<0.1"
    return f"{per_s:.1f}" if per_s < 99.95 else f"{per_s:,.0f}"


def bar(share: float, width: int, *, ascii_only: bool = False) -> str:
    """A bar that is full at 1, and shows something as soon as there is something."""
    full, empty = ("#", ".") if ascii_only else ("█", "░")
    filled = min(width, max(1 if share > 0 else 0, round(share * width)))
    return full * filled + empty * (width - filled)
