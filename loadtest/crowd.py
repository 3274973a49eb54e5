"""Memory of the gateway's process in front of a crowd: so many streams, and so many who wait, with bodies of 1 KB.

    python -m loadtest.crowd                          # 1,000 streams and 10,000 who wait: ten seconds
    .venv-compiled/bin/python -m loadtest.crowd       # the compiled gateway

The engine, the client of the streams and the way in which processes are started are those of `loadtest.overhead`. Those
who wait are sockets that have sent their request. Exit status 1 where the gateway had more than `--limit-mb` at any
time, 2 where there are no figures: it didn't start, or somebody of the crowd was lost.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import headgate
from loadtest.options import count, positive, status
from loadtest.overhead.bench import RoundError
from loadtest.overhead.run import leave, machine, say
from loadtest.overhead.wire import MODEL
from loadtest.scrape.run import Bench

BODY_BYTES = 1_000
MB = 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.crowd", description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=count, default=1_000, help="(1000)")
    parser.add_argument("--waiting", type=count, default=10_000, help="(10000)")
    parser.add_argument("--limit-mb", type=positive, default=300.0, help="(300)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, leave)
    settings = {
        "HEADGATE_MAX_ACTIVE": str(options.streams),
        "HEADGATE_QUEUE_MAX": str(options.waiting),
        "HEADGATE_QUEUE_TIMEOUT_S": "600",
        "HEADGATE_MAX_CONNECTIONS": str(options.streams + options.waiting + 16),
    }
    with tempfile.TemporaryDirectory(prefix="crowd-") as folder:
        bench = Bench(Path(folder))
        try:
            bench.start(settings)
            rows = [("idle", resident_mb(bench))]
            bench.stream(options.streams, 200)
            rows.append((f"{options.streams:,} streams", resident_mb(bench)))
            with crowd(bench, options.waiting):
                rows.append((f"and {options.waiting:,} who wait", resident_mb(bench)))
                if bench.active() != options.streams or waiting(bench) != options.waiting:
                    raise RoundError("somebody of the crowd was lost")
            bench.until(0, lambda: waiting(bench), "who wait")
            rows.append(("those who waited have left", resident_mb(bench)))
            most_mb = bench.gateway.peak_rss_bytes() / MB
        except (RoundError, OSError) as problem:
            say(f"no figures: {problem}")
            return 2
        finally:
            bench.close()
    about = machine()
    print(f"headgate {headgate.told_version()} on {about['cpu']}, Python {about['python']}\n")
    print("| | resident, MB |\n|---|---|")
    for what, mb in rows:
        print(f"| {what} | {mb:.0f} |")
    print(f"| the most at any time | {most_mb:.0f} |")
    return 0 if most_mb <= options.limit_mb else 1


@contextlib.contextmanager
def crowd(bench: Bench, size: int) -> Iterator[None]:
    """So many sockets that have asked and wait."""
    body = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": ""}]}).encode()
    body = body.replace(b'"content": ""', b'"content": "%b"' % (b"x" * (BODY_BYTES - len(body))))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    request = b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
    with contextlib.ExitStack() as stack:
        for _ in range(size):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", bench.port)))
            one.sendall(request)
        bench.until(size, lambda: waiting(bench), "who wait")
        yield


def waiting(bench: Bench) -> int:
    """How many are in the line."""
    return int(json.loads(bench.scraper.get("/status"))["queue"]["depth"])


def resident_mb(bench: Bench) -> float:
    """Of the gateway's process."""
    pages = int(Path(f"/proc/{bench.gateway.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


if __name__ == "__main__":
    sys.exit(status(main))
