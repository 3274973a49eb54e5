"""``headgate conformance``: does a gateway, any gateway, keep its slots, cancel, refuse and stream as it should?

``claims`` is the list of what is claimed, each with the case in ``cases`` that tries it. A case is given a
``site.Site``: the gateway, the engine behind it, and what the gateway promises (``promises``). It talks to the gateway
over raw sockets (``caller``), so that a client can leave in every way there is, and asks the engine what really ran
(``engine``). ``peers`` knows how some gateways are started with a cap and a line; ``run`` goes from options to exit
status.

The scripted engine is the simulated one, as a process. Nothing of the gateway is imported.
"""
