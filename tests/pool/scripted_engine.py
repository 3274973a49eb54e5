"""The engine that a test writes a plan for: ``scripted_engine.py PORT PLAN``. Standard library only, quick to start.

A plan may hold ``ignores_sigterm``, ``helpers`` (processes that try to outlive it, by kind), ``family`` (a named pipe
that is told all process ids), ``prints`` (lines), ``exits`` (a status, instead of listening), ``models`` (names),
``nameless`` (cards that it lists before those), ``metrics`` (a file that is its page) and ``health`` (a file with a
status), ``is_silent`` (it listens and answers nothing). ``GET /exit/N`` ends it with that status.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STAY = "import signal; signal.signal(15, 1); signal.pause()"
HAVE_A_CHILD = """
import signal, subprocess, sys
signal.signal(15, 1)
print(subprocess.Popen([sys.executable, "-IS", "-c", sys.argv[1]]).pid, flush=True)
signal.pause()
"""
HOW: dict[str, dict[str, Any]] = {
    "group": {},
    "own group": {"process_group": 0},
    "own session": {"start_new_session": True},
    # Nothing in common with the engine any more but that it is its child.
    "bare session": {"start_new_session": True, "env": {}},
    "parent": {"start_new_session": True},
}


def helpers(kinds: list[str]) -> list[int]:
    """Start them; all process ids, grandchildren too."""
    pids = []
    for kind in kinds:
        code = [HAVE_A_CHILD, STAY] if kind == "parent" else [STAY]
        argv = [sys.executable, "-IS", "-c", *code]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, **HOW[kind])
        pids.append(child.pid)
        if kind == "parent":
            assert child.stdout is not None
            pids.append(int(child.stdout.readline()))
    return pids


class Answers(BaseHTTPRequestHandler):
    """What it says over HTTP."""

    plan: dict[str, Any]

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            cards = [{"id": name, "max_model_len": 2048} for name in self.plan.get("models", ["toy"])]
            self._answer(200, json.dumps({"data": [*self.plan.get("nameless", []), *cards]}))
        elif self.path == "/metrics" and "metrics" in self.plan:
            with open(self.plan["metrics"]) as file:
                self._answer(200, file.read())
        elif self.path == "/health" and "health" in self.plan:
            with open(self.plan["health"]) as file:
                self._answer(int(file.read()), "")
        elif self.path.startswith("/exit/"):
            os._exit(int(self.path.removeprefix("/exit/")))
        else:
            self._answer(404, "")

    def log_message(self, *args: object) -> None:
        """Nothing: what it prints is the plan's."""

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


def main(port: int, plan: dict[str, Any]) -> None:
    if plan.get("ignores_sigterm"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pids = [os.getpid(), *helpers(plan.get("helpers", []))]
    if "family" in plan:
        with open(plan["family"], "w") as pipe:
            pipe.write(json.dumps(pids))
    for line in plan.get("prints", []):
        print(line, flush=True)
    if "exits" in plan:
        sys.exit(plan["exits"])
    Answers.plan = plan
    server = ThreadingHTTPServer(("127.0.0.1", port), Answers)
    if plan.get("is_silent"):
        signal.pause()
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
