"""May I? Slots and the line, with a refusal that says when to come back.

``Gate`` is what others use: ``acquire`` a ``Lease``, ``release`` it. The rest can be read alone, in this
order: ``entries``, ``outcomes``, ``slots``, ``ordering`` (and ``fair``, ``priority``, ``timely``), ``deadlines``,
``forecast``, ``ledger``, ``gate``; ``limits`` (and ``yields``), ``estimate`` and ``shedding`` by
themselves.
"""

from headgate.gate.entries import Claim, Statistics
from headgate.gate.estimate import Estimate
from headgate.gate.gate import Gate, Lease
from headgate.gate.ledger import Ledger, LedgerError
from headgate.gate.ordering import Fifo, Order
from headgate.gate.orders import make_order
from headgate.gate.shedding import Shedder
from headgate.gate.slots import Bin, emptiest

__all__ = [
    "Bin",
    "Claim",
    "Estimate",
    "Fifo",
    "Gate",
    "Lease",
    "Ledger",
    "LedgerError",
    "Order",
    "Shedder",
    "Statistics",
    "emptiest",
    "make_order",
]
