"""Headgate: an always-on gateway in front of LLM engines.

The way of a request, and the folders in its order:

1. ``api``      in: routes, keys, problems (a reason's HTTP status), the connection that notices a client leaving
2. ``gate``     may I? the ledger of slots and line, and its asyncio shell
3. ``pool``     who? the engines: launched, watched, restarted, stopped
4. ``relay``    out: the engine's connection, the stream's events, the usage counted on the way

``flow`` is the only module that joins these stops; each of them can be read alone. ``call`` is what it knows of a
request, ``books`` what it writes down at the end. ``app`` puts the house together from ``settings``; ``telemetry``
holds every instrument, ``keys`` what each caller may do.
Beside the road: ``simulator`` (an engine that speaks vLLM's HTTP, a process of its
own) and ``workbench`` (what is run beside the gateway).
"""

__version__ = "0.1.0"
