"""Goodput under overload: how many good answers a second there are with the gate, and with none.

``python -m loadtest.overload`` plays it through in virtual time (``headgate.workbench.rehearsal``): the real ledger,
order, controller and scheduler, no sockets, the same outcome each time.
"""
