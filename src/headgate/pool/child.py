"""A child process whose pipes asyncio reads, and which nothing kills but ``kill``.

asyncio's own transport kills its process when it is closed or collected, from Python 3.12 on also once the loop is
closed. A guard must live just then: the end of its standard input is its order to kill what it guards, or to keep it.
"""

from __future__ import annotations

import asyncio
import subprocess
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOOK_S = 0.01


class Child:
    """A running child process. Make one with ``start``.

    Attributes:
        stdin: what is written here it reads at once.
        stdout, stderr: what it prints.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        stdin: asyncio.WriteTransport,
        stdout: tuple[asyncio.StreamReader, asyncio.BaseTransport],
        stderr: tuple[asyncio.StreamReader, asyncio.BaseTransport],
    ) -> None:
        self._process = process
        self.stdin = stdin
        self.stdout, self.stderr = stdout[0], stderr[0]
        self._read = stdout[1], stderr[1]

    @classmethod
    async def start(cls, argv: Sequence[str], env: Mapping[str, str]) -> Child:
        """Start a command in a session of its own: a terminal's Ctrl-C is for us.

        Raises:
            OSError: it cannot be started.
        """
        process = _spawn(argv, env)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        stdin, _ = await asyncio.get_running_loop().connect_write_pipe(asyncio.BaseProtocol, process.stdin)
        return cls(process, stdin, await _reader(process.stdout), await _reader(process.stderr))

    async def wait(self) -> int:
        """Its status, once it has ended. For who knows that it is about to, and has read what it printed."""
        while (status := self._process.poll()) is None:  # noqa: ASYNC110 - nothing portable tells it
            await asyncio.sleep(LOOK_S)
        for transport in self._read:  # uvloop leaves a pipe open at its end
            transport.close()
        return status

    def kill(self) -> None:
        """Kill it alone (SIGKILL)."""
        self._process.kill()


def _spawn(argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(  # noqa: S603 - the operator's own
        argv, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, env=env, start_new_session=True
    )


async def _reader(pipe: IO[bytes]) -> tuple[asyncio.StreamReader, asyncio.BaseTransport]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader, transport
