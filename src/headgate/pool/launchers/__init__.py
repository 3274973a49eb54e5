"""How each kind of engine comes to be: one file for a kind, one value that says what is to be started.

A launcher decides the command, its environment and its port, and reads the engine's log lines; it starts
nothing. Separate from the supervisor so that a new kind of engine is one new file. It ends at a ``Launch``.
"""

from __future__ import annotations

import re
import secrets
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LOOPBACK = "127.0.0.1"
_PORTS = range(20_000, 32_768)
_OPTION = re.compile(r"--[A-Za-z]")
KEY_VARIABLE = "VLLM_API_KEY"
"""Where vLLM, and the simulated engine, look for the key that they ask for. An argument could be read by every user of
the machine in the list of processes; another's environment can't."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens."""

    host: str
    port: int
    tls: bool = False
    prefix: str = ""

    @property
    def url(self) -> str:
        """The base URL, with no slash at its end and no ``/v1``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.prefix}"


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a start has come: ``fraction`` of this phase (0 to 1), None where the engine does not say."""

    phase: str
    fraction: float | None
    line: str


def _says_nothing(line: str) -> LoadProgress | None:
    del line
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One start of one engine.

    Attributes:
        kind: ``vllm``, ``simulated``, ``remote``, …
        address: where it will listen.
        argv: the command; empty if somebody else runs the engine.
        env: what is added to the environment that it inherits.
        model_names: the names it will serve, as far as they are known before it answers.
        max_num_seqs: how many generations it schedules at once; None if that is not known.
        can_include_usage: whether it understands ``stream_options.include_usage``.
        stop_grace_s: how long it may take to leave after SIGTERM.
        api_key: what it wants as a bearer token, if it wants one.
        key_is_made: whether that key was made for this start; a kept engine may then have another.
        history_key: equal for starts that should take equally long.
        read_line: what one line of its output says about its start.
    """

    kind: str
    address: Address
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    model_names: tuple[str, ...] = ()
    max_num_seqs: int | None = None
    can_include_usage: bool = True
    stop_grace_s: float = 10.0
    api_key: str | None = field(default=None, repr=False)
    key_is_made: bool = False
    history_key: str = ""
    read_line: Callable[[str], LoadProgress | None] = _says_nothing

    @property
    def is_ours(self) -> bool:
        """Whether the engine is a process that we start, and so one that we stop."""
        return bool(self.argv)


class Launcher(Protocol):
    """Makes a launch, with a fresh port each time."""

    def __call__(self) -> Launch: ...


def free_port(host: str = LOOPBACK) -> int:
    """A port that is free now.

    Not one of those that the system gives to outgoing connections (from 32768 on): a vLLM takes a while before it
    listens, and by then our own connections might sit there. Somebody may still be quicker than the engine. Then
    that start fails, and the next one has another port.
    """
    for port in (*(secrets.choice(_PORTS) for _ in range(50)), 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise OSError(f"no port is free on {host}")


def made_key() -> str:
    """A key for one start of one engine, so that nobody but its gateway gets past the gate."""
    return secrets.token_urlsafe(32)


def options(args: Sequence[str], name: str) -> list[str] | None:
    """The values that were given to an option such as ``--max-num-seqs``, however it is spelled.

    None if it was not given; the last mention counts.
    """
    found: list[str] | None = None
    for position, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if not arg.startswith("--") or flag.replace("_", "-") != name:
            continue
        if equals:
            found = [value]
        else:
            found = []
            for following in args[position + 1 :]:
                if _OPTION.match(following):
                    break
                found.append(following)
    return found


def whole_number(args: Sequence[str], name: str) -> int | None:
    """The whole number that was given to an option, if one was."""
    values = options(args, name)
    return int(values[0]) if values and values[0].isdecimal() else None
