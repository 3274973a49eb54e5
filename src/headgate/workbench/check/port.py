"""The door: whether the port is free, who has it otherwise, and whether the door is open to strangers.

It ends at findings. The port is tried the way ``serve`` takes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx

from headgate.keys import KeysError, store
from headgate.workbench.check.finding import Finding, fail, ok, warn

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_LISTEN = "0A"


def look(host: str, port: int) -> Finding:
    """Try to listen there, for a moment."""
    where = f"{f'[{host}]' if ':' in host else host}:{port}"
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except socket.gaierror:
        return fail("port", f"{host} is no address of this machine", "See --host.")
    except OSError as error:
        return fail("port", *_refused(error, host, port, where))
    return ok("port", f"a free port of {host}" if port == 0 else f"{where} is free")


def open_door(host: str, api_key: str | None, keys_file: Path | None, *, ops_open: bool) -> Finding:
    """Who may come in. A keys file is read as ``serve`` reads it, which doesn't start with one that is wrong."""
    counted = ""
    if keys_file is not None:
        try:
            keys = len(store.load(keys_file))
        except KeysError as error:
            mend = "Mend it there." if keys_file.exists() else f"`headgate keys add NAME --file {keys_file}` makes it."
            return fail("keys", f"API_KEYS_FILE = {str(keys_file)!r}: {error}", mend)
        counted = f" ({keys} {'key' if keys == 1 else 'keys'} in {keys_file})"
    is_open = api_key is None and keys_file is None
    asked = "no API key is asked for" if is_open else f"an API key is asked for{counted}"
    if host in _LOOPBACK:
        return ok("keys", f"only this machine can reach it; {asked}")
    if is_open:
        return warn(
            "keys",
            f"{host} is open to others, and no API key is set: whoever reaches it can use the model",
            "Set HEADGATE_API_KEY or HEADGATE_API_KEYS_FILE.",
        )
    seen = "; /metrics and /status are open to all (OPS_AUTH=key closes them)" if ops_open else ""
    return ok("keys", f"{host} is open to others, and {asked}{seen}")


def _refused(error: OSError, host: str, port: int, where: str) -> tuple[str, str]:
    if error.errno == errno.EADDRINUSE:
        who = " and ".join(holders(port)) or "a process of another user"
        return f"{where} is taken by {_headgate(host, port) or who}", "Take another with --port, or end that one."
    if error.errno == errno.EACCES:
        return f"{where}: ports below 1024 need a privilege", "Take one from 1024 up, such as --port 8080."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine", "See --host: 127.0.0.1 for this machine only, 0.0.0.0 for all."
    return f"{where}: {error.strerror or error}", "See --host and --port."


def _headgate(host: str, port: int) -> str | None:
    """Whether a Headgate is there already."""
    asked = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host
    url = f"http://{f'[{asked}]' if ':' in asked else asked}:{port}/health"
    with contextlib.suppress(httpx.HTTPError, ValueError, AttributeError):
        said = httpx.get(url, timeout=1.0, trust_env=False).json()
        if said.get("status") == "ok" and "version" in said:
            who = " and ".join(holders(port))
            return f"a Headgate {said['version']} that runs already{f', {who}' if who else ''}"
    return None


def holders(port: int) -> list[str]:
    """Who listens on a port: names and pids, as far as this user may see them (Linux only)."""
    inodes = set(_listening(port))
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd") if inodes else ():
        with contextlib.suppress(OSError):
            for link in folder.iterdir():
                target = ""
                with contextlib.suppress(OSError):
                    target = os.readlink(link)
                if target.startswith("socket:[") and target[8:-1] in inodes:
                    name = (folder.parent / "comm").read_text().strip()
                    found.append(f"{name} (pid {folder.parent.name})")
                    break
    return found


def _listening(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text("ascii").splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                    yield words[9]
