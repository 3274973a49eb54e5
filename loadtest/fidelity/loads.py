"""What is put on both engines: loads to fit on, and others to be foretold."""

from __future__ import annotations

from headgate.workbench.bench.raw import Plan


def _closed(users: int, tokens_in: int, tokens_out: int, workload: str = "fixed") -> Plan:
    return Plan(users=users, input_tokens=tokens_in, output_tokens=tokens_out, workload=workload)


FITTED = {f"fit-{users}-at-once-{size}-in": _closed(users, size, 100) for users in (1, 4, 16) for size in (100, 800)}
"""A few at once, a middling number, a full batch; short prompts and long ones."""

HELD_OUT = {
    **{f"held-{users:02d}-at-once": _closed(users, 300, 150) for users in (1, 2, 4, 8, 12, 16)},
    "held-mixed-8-at-once": _closed(8, 200, 100, "mixed"),
    "held-poisson-12-per-s": Plan(rate="12", input_tokens=300, output_tokens=100),
}
"""Other numbers at once, other lengths, drawn lengths, and arrivals that wait for nobody."""
