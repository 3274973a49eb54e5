"""Starts a gateway that is tried, waits until it serves, and ends it; whatever was started is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from headgate.workbench.compare.start import NotStarted, environment, last_words
from headgate.workbench.conformance.caller import Address
from headgate.workbench.conformance.engine import MODEL, Engine, Scripted
from headgate.workbench.conformance.peers import Launch, Stand
from headgate.workbench.conformance.promises import Promises
from headgate.workbench.conformance.site import Site
from headgate.workbench.conformance.verdict import Broken

READY_WITHIN_S = 90.0
_LOOK_S = 0.1
_END_S = 3.0


class Started:
    """A process of ours with a session of its own."""

    def __init__(self, launch: Launch, folder: Path) -> None:
        self.log = folder / "gateway.log"
        self._ends_by = signal.Signals[launch.ends_by]
        try:
            with self.log.open("wb") as output:
                self.process = subprocess.Popen(  # noqa: S603  what the user asked for
                    launch.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=launch.cwd or folder,
                    env={**environment(os.environ), **launch.env},
                    start_new_session=True,
                )
        except OSError as error:
            raise NotStarted(f"{launch.argv[0]}: {error.strerror}") from None

    def drain(self) -> None:
        """Ask it for an orderly end."""
        self.process.send_signal(self._ends_by)

    def gone(self, within_s: float) -> bool:
        """Whether it ends in time."""
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> None:
        """Whatever it is doing."""
        if self.process.poll() is None:
            self.process.terminate()
            self.gone(_END_S)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@asynccontextmanager
async def started(
    how: Callable[[Stand], Launch], promises: Promises, engine: Scripted, folder: Path, environments: tuple[Path, ...]
) -> AsyncIterator[tuple[Site, Launch]]:
    """A gateway that serves, with the scripted engine behind it. Raises NotStarted."""
    port, spare_port = _free_ports()
    stand = Stand(port, spare_port, engine.port, MODEL, promises, folder, environments)
    launch = how(stand)
    gateway = Started(launch, folder)
    site = Site(Address("127.0.0.1", port), launch.promises, MODEL, None, engine, gateway.drain, gateway.gone)
    try:
        await until_it_serves(site, READY_WITHIN_S, gateway)
        yield site, launch
    finally:
        site.close()
        await asyncio.to_thread(gateway.end)


async def until_it_serves(site: Site, within_s: float, gateway: Started | None = None) -> None:
    """Until a short chat through it works. Raises NotStarted."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + within_s
    seen = "it takes no connection"
    while loop.time() < give_up_at:
        if gateway is not None and gateway.process.poll() is not None:
            raise NotStarted(f"it ended with status {gateway.process.returncode}: {last_words(gateway.log)}")
        with suppress(Broken):
            reply = (await site.ask(2, 10.0)).reply
            if reply.ended_well:
                return
            seen = f"a short chat: {reply.in_short} {bytes(reply.body[:200]).decode(errors='replace')}"
        await asyncio.sleep(_LOOK_S)
    words = f"; its last words: {last_words(gateway.log)}" if gateway is not None else ""
    raise NotStarted(f"it did not serve within {within_s:g} s ({seen}){words}")


async def calm(site: Site, engine: Engine | None) -> bool:
    """Whether everything is as it was before a case: no faults, nothing on the engine, a chat is served."""
    site.close()
    if isinstance(engine, Scripted):
        await engine.calm()
    try:
        await site.until_idle(5.0)
        await until_it_serves(site, 10.0)
    except (NotStarted, Broken):
        return False
    return True


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
