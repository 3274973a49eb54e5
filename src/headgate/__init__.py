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

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec

__version__ = "0.1.0"


def is_compiled() -> bool:
    """Whether the road is compiled (docs/decisions/012-compiled.md): seen at its files, none of which is loaded."""
    road = find_spec("headgate.errand")
    return road is not None and (road.origin or "").endswith(tuple(EXTENSION_SUFFIXES))


def told_version() -> str:
    """The version as people are told it: ``0.1.0``, or ``0.1.0 (compiled)``."""
    return f"{__version__} (compiled)" if is_compiled() else __version__
