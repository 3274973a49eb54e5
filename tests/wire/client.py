"""A client made of one socket, for what well-behaved clients never do.

It sends bytes as they are, pipelines, sends slowly, reads slowly or not at all, half-closes, resets. What it reads it
reads strictly: a body has ``ended`` only if HTTP says so, so that a reply cut short can't pass for a whole one.
"""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

DEADLINE_S = 20.0
MODEL = "headgate-simulated"
CHAT = "/v1/chat/completions"
DONE = b"data: [DONE]\n\n"
ONCE = re.compile(
    r"(x-headgate|x-ratelimit|access-control|content)-.*|date|server|connection|transfer-encoding|retry-after"
    r"|(x-)?request-id|location|www-authenticate"
)
"""Headers that may stand once in an answer. An engine may repeat its own others, as it may a cookie's."""


def chat(tokens: int = 4, *, stream: bool = True, text: str = "Hello", **fields: Any) -> dict[str, Any]:
    """The body of a chat that makes so many tokens."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "stream": stream,
        **fields,
    }


def request(
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "POST",
    version: str = "1.1",
) -> bytes:
    """The bytes of a request; ``body`` is JSON unless it is bytes already."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = {"host": "127.0.0.1", "content-type": "application/json", "content-length": str(len(content))}
    lines |= {name.lower(): value for name, value in (headers or {}).items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value != "")
    return f"{method} {path} HTTP/{version}\r\n{head}\r\n".encode("latin-1") + content


@dataclass(slots=True)
class Reply:
    """What came back. ``ended``: the body came to the end that its head promised."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error

    @property
    def events(self) -> list[bytes]:
        """The events of a stream, each with its closing blank line."""
        return [event + b"\n\n" for event in self.body.split(b"\n\n")[:-1]]

    @property
    def data(self) -> list[Any]:
        """What the data of its events says; ``[DONE]`` is left out."""
        return [payload for event in self.events if (payload := data_of(event)) is not None]

    @property
    def text(self) -> str:
        """The text of a streamed chat or completion."""
        return "".join(
            choice.get("text") or choice.get("delta", {}).get("content") or ""
            for chunk in self.data
            for choice in chunk.get("choices", ())
        )

    @property
    def figures(self) -> dict[str, Any] | None:
        """What the final comment says; None where there is none."""
        for event in self.events:
            if event.startswith(b": headgate "):
                told: dict[str, Any] = json.loads(event[len(b": headgate ") :])
                return told
        return None


def data_of(event: bytes) -> Any:
    """The JSON of an event's data line; None for comments and ``[DONE]``."""
    for line in event.splitlines():
        if line.startswith(b"data: ") and line != b"data: [DONE]":
            return json.loads(line[6:])
    return None


class Client:
    """One connection.

    Args:
        port: of the gateway, on loopback.
        receive_bytes: the socket's receive buffer; small for a client that means to read slowly.
    """

    def __init__(self, port: int, *, receive_bytes: int | None = None) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(DEADLINE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.connect(("127.0.0.1", port))
        self._rest = b""
        self._head: Reply | None = None
        self._chunked = False
        self._length: int | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Sending.

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def post(self, path: str, body: object, **headers: str) -> Client:
        """Send a whole request; ``x_request_id="…"`` is the header x-request-id."""
        self.send(request(path, body, {name.replace("_", "-"): value for name, value in headers.items()}))
        return self

    def ask(self, path: str, body: object, **headers: str) -> Reply:
        """Send a request and read its whole answer."""
        return self.post(path, body, **headers).reply()

    # Leaving.

    def close(self) -> None:
        self._socket.close()

    def half_close(self) -> None:
        """Say that nothing more will be sent, and go on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave by RST."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    # Reading.

    def head(self) -> Reply:
        """The status and the headers of the next answer; its body is still to come."""
        while b"\r\n\r\n" not in self._rest:
            self._more("the head of an answer")
        raw, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        pairs = [line.partition(": ") for line in lines]
        names = [name.lower() for name, _, _ in pairs]
        doubled = {name for name in names if names.count(name) > 1 and ONCE.fullmatch(name)}
        assert not doubled, f"a header stands twice: {raw!r}"
        reply = Reply(int(first.split(" ")[1]), {name.lower(): value for name, _, value in pairs})
        if reply.status == 100:
            return reply
        self._head = reply
        self._chunked = reply.headers.get("transfer-encoding") == "chunked"
        length = reply.headers.get("content-length")
        self._length = int(length) if length is not None else None
        assert not (self._chunked and length is not None)
        return reply

    def reply(self) -> Reply:
        """The next answer, read to its end, however it ends."""
        head = self.head() if self._head is None else self._head
        while not head.ended:
            if not self._read_some(head):
                break
        self._head = None
        return head

    def until(self, part: bytes) -> Reply:
        """The answer as far as it has come, once ``part`` is in its body."""
        head = self.head() if self._head is None else self._head
        while part not in head.body:
            assert not head.ended, f"{part!r} never came: {head.body!r}"
            assert self._read_some(head), f"{part!r} never came: {head.body!r}"
        return head

    def until_events(self, count: int) -> Reply:
        """The answer as far as it has come, once so many events are here."""
        head = self.head() if self._head is None else self._head
        while head.body.count(b"\n\n") < count:
            assert not head.ended, f"only {head.body!r}"
            assert self._read_some(head), f"only {head.body!r}"
        return head

    def closed(self) -> bool:
        """Whether the gateway has closed the connection, with nothing more said; waits for either."""
        if self._rest:
            return False
        try:
            return self._socket.recv(1) == b""
        except ConnectionError:
            return True

    def dropped(self) -> bool:
        """Whether the gateway has reset the connection; nothing is read to find out."""
        looks = select.poll()
        looks.register(self._socket, 0)  # of an error it tells all the same
        return bool(looks.poll(0))

    def _read_some(self, head: Reply) -> bool:
        """A piece of the body; False where the connection ended instead."""
        try:
            if self._chunked:
                return self._read_chunk(head)
            if self._length is None:
                data = self._rest or self._socket.recv(65536)
                self._rest = b""
                head.body += data
                head.ended = not data  # such a body ends with its connection
                return True
            wanted = self._length - len(head.body)
            if wanted:
                if not self._rest:
                    self._more("a body")
                head.body, self._rest = head.body + self._rest[:wanted], self._rest[wanted:]
            head.ended = len(head.body) == self._length
        except ConnectionError:
            return False
        return True

    def _read_chunk(self, head: Reply) -> bool:
        while b"\r\n" not in self._rest:
            self._more("a chunk")
        size, _, rest = self._rest.partition(b"\r\n")
        length = int(size, 16)
        while len(rest) < length + 2:
            self._rest = size + b"\r\n" + rest
            self._more("a chunk's end")
            rest = self._rest.partition(b"\r\n")[2]
        assert rest[length : length + 2] == b"\r\n", "a chunk doesn't end where it says"
        head.body += rest[:length]
        self._rest = rest[length + 2 :]
        head.ended = length == 0
        return True

    def _more(self, what: str) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError(f"the gateway closed the connection before {what}")
        self._rest += data
