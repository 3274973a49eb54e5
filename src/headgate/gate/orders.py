"""The orders by the names that ``QUEUE_ORDER`` has, each as it is used: what is beneath what.

``fifo`` is the plain line, and nothing else. The others let those go first who can still be served in time.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Literal

from headgate.gate.capped import Capped
from headgate.gate.fair import Fair
from headgate.gate.ordering import Fifo, Order, Turns
from headgate.gate.priority import Priority
from headgate.gate.timely import Timely

Name = Literal["fifo", "priority", "fair"]

ORDERS: dict[Name, Callable[[], Order]] = {
    "fifo": Fifo,
    "priority": lambda: Timely(lambda: Priority(lambda: Fifo(Turns)), lambda: Priority(Fifo, age_s=inf)),
    "fair": lambda: Timely(lambda: Priority(Fair), lambda: Priority(Fair, age_s=inf), shared=True),
}


def make_order(name: Name, *, capped: bool = False) -> Order:
    """An empty line of that order. ``capped``: keys can have caps of slots."""
    return Capped(ORDERS[name]) if capped else ORDERS[name]()
