"""The guard: a small process between the gateway and one engine, so that nothing outlives either.

The parent-death signal reaches an engine's main process but not its children, and killing vLLM's main process
leaves EngineCore with the GPU's memory (vllm#55510). So each engine is started by a guard that

- kills everything at once when its standard input ends, for then the gateway is gone, however it went;
- is a subreaper: whatever loses its parent comes to the guard, in whatever group or session it is;
- once the engine's main process has ended, with whatever status, kills all that is left, and only then
  reports it;
- has the kernel kill the engine's main process should the guard itself be killed. What is left then is the
  gateway's to find (``pool.remains``).

With a plan for it in its environment (``KEEP``) the engine outlives the gateway: the end of standard input is no order
then. The guard stays, writes down who it and the engine are, and listens on a Unix socket, where the next gateway takes
its place: the same commands and reports, and what the engine prints as ``{"output": …}`` (``pool.keep``).

Standard library only, and started by its path with ``-I -S``: it runs before anything is imported, and stays
small. Commands on standard input, a line each: ``term`` (SIGTERM to the main process), ``kill`` (all, now).
Reports on standard output, a line of JSON each: ``{"pid": …, "kept": …}``, with ``"unkept": …`` where it
should be kept and why it can't be, then ``{"status": …, "killed": …}``. What the engine prints goes to the
guard's standard error. On systems that are not Linux there are no subreapers: there only the engine's own
process group is killed, and a child that left the group is missed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ON_LINUX = sys.platform == "linux"
COMPLAIN_AFTER_S = 5.0
TRACKER_GRACE_S = 2.0
"""Python's resource trackers remove the shared memory of those who were killed, once they are alone."""
KEEP = "HEADGATE_ENGINE_KEEP_PLAN"
"""JSON: ``record`` and ``socket``, paths of one folder; ``told``, what the record is to say besides."""
FROM_OUTSIDE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def main(argv: list[str]) -> int:
    """Run one engine to its end."""
    # A Ctrl-C or a SIGTERM to everybody means the gateway, which says on the pipe what is to be done.
    for number in (*FROM_OUTSIDE, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    # Written to by the interpreter at each SIGCHLD: the end of a child wakes the same select() as a command.
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_reader, False)
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    is_subreaper = _prctl(PR_SET_CHILD_SUBREAPER, 1)

    plan = os.environ.pop(KEEP, None)  # the engine need not know
    keeper = _Keeper(json.loads(plan)) if plan else None
    pid = _start(argv, 2 if keeper is None else keeper.output_writer)
    report = _report
    unkept = None
    if keeper is not None:
        unkept = keeper.begin(pid)
        report = keeper.report
    report(json.dumps({"pid": pid, "kept": keeper is not None and unkept is None, "unkept": unkept}))
    status = _watch(pid, wake_reader) if keeper is None else keeper.watch(wake_reader)
    if not is_subreaper:
        _kill_group(pid)
    status, killed = _sweep(pid, status, wake_reader)
    if keeper is not None and unkept is None:  # else what is written down there by now is another's
        keeper.end()
    report(f'{{"status": {status}, "killed": {killed}}}')
    return 0


class _Keeper:
    """What a guard does that outlives its gateway."""

    def __init__(self, plan: dict[str, object]) -> None:
        self._folder, self._record = os.path.split(str(plan["record"]))
        self._draft = f"{self._record}.{os.getpid()}"
        self._socket = os.path.basename(str(plan["socket"]))
        self._told = plan["told"]
        self._output, self.output_writer = os.pipe()
        self._by_pipes = True
        self._listener = socket.socket(socket.AF_UNIX)
        self._gateway: socket.socket | None = None
        self._buffered = b""
        self._pid = 0
        self._is_kept = False

    def begin(self, pid: int) -> str | None:
        """The engine runs: write down who it is. Why that can't be done, upon which it ends with its gateway."""
        os.close(self.output_writer)
        os.set_blocking(self._output, False)
        self._pid = pid
        try:
            os.makedirs(self._folder, exist_ok=True)
            self._bind()
            self._write_down()
        except OSError as error:  # a full disk, say
            self.end()
            return str(error)
        self._is_kept = True
        return None

    def _bind(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._folder, self._socket))
        before = os.umask(0o177)
        folder = os.open(self._folder, os.O_PATH)
        try:
            self._listener.bind(f"/proc/self/fd/{folder}/{self._socket}")  # a socket's path may have 107 bytes
        finally:
            os.close(folder)
            os.umask(before)

    def _write_down(self) -> None:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot_id = file.read().strip()
        guard, engine = ([pid, started(pid)] for pid in (os.getpid(), self._pid))
        draft = os.path.join(self._folder, self._draft)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump({"told": self._told, "boot_id": boot_id, "guard": guard, "engine": engine}, file)
        os.replace(draft, os.path.join(self._folder, self._record))

    def end(self) -> None:
        """The engine is gone, and so is what was written down."""
        for name in (self._draft, self._record, self._socket):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._folder, name))

    def report(self, line: str) -> None:
        if self._by_pipes:
            _report(line)
        else:
            self._send(line)

    def watch(self, wake_reader: int) -> int | None:
        """As ``_watch`` does, for one gateway after the other."""
        while True:
            asked: int | socket.socket = 0 if self._by_pipes else self._gateway or self._listener
            ready, _, _ = select.select([asked, self._output, wake_reader], [], [])
            if self._output in ready:
                self._pass_output_on()
            if wake_reader in ready:
                _drain(wake_reader)
                status = _reap(self._pid)
                if status is not None:
                    self._pass_output_on()
                    return status
            if asked not in ready:
                continue
            if asked is self._listener:
                self._gateway, _ = self._listener.accept()
                self._gateway.settimeout(5.0)
                self.report(f'{{"pid": {self._pid}}}')
                continue
            try:
                chunk = os.read(asked if isinstance(asked, int) else asked.fileno(), 4096)
            except OSError:
                chunk = b""
            if not chunk:
                if not self._is_kept:
                    return None
                self._let_go()
                continue
            *lines, self._buffered = (self._buffered + chunk).split(b"\n")
            if b"kill" in lines:
                return None
            if b"term" in lines:
                os.kill(self._pid, signal.SIGTERM)

    def _let_go(self) -> None:
        """The gateway has gone: from here on the next one is waited for."""
        self._buffered = b""
        if self._by_pipes:
            self._by_pipes = False
            nothing = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(nothing, number)
            os.close(nothing)
            self._listener.listen(1)
        elif self._gateway is not None:
            self._gateway.close()
            self._gateway = None

    def _pass_output_on(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._output, 4096):
                if self._by_pipes:
                    with contextlib.suppress(OSError):
                        os.write(2, chunk)
                else:
                    self._send(json.dumps({"output": chunk.decode("latin-1")}))

    def _send(self, line: str) -> None:
        if self._gateway is not None:
            with contextlib.suppress(OSError):  # its end will be read
                self._gateway.sendall(line.encode() + b"\n")


def started(pid: int) -> int:
    """When a process began, in clock ticks since the boot: with its number, what tells it from every other.

    Raises:
        OSError: there is none, or it has ended and nobody has buried it yet.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    if fields[0] in (b"Z", b"X"):
        raise ProcessLookupError(f"process {pid} has ended already")
    return int(fields[19])


def _start(argv: list[str], output: int) -> int:
    guard = os.getpid()
    # Held back over the fork: until its handlers are reset the child would ignore an early SIGTERM.
    signal.pthread_sigmask(signal.SIG_BLOCK, FROM_OUTSIDE)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return pid
    try:
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # the guard was killed before the line above could help
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number in (*FROM_OUTSIDE, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # what is ignored would stay so in the engine
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 2)
        os.dup2(2, 1)
        os.execvp(argv[0], argv)  # noqa: S606 - the command is the operator's own
    except OSError as error:
        os.write(2, f"cannot start {argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _watch(pid: int, wake_reader: int) -> int | None:
    """Wait for the engine's end or for the command to end it; its wait status, None if it still runs."""
    buffered = b""
    while True:
        ready, _, _ = select.select([0, wake_reader], [], [])
        if wake_reader in ready:
            _drain(wake_reader)
            status = _reap(pid)
            if status is not None:
                return status
        if 0 in ready:
            chunk = os.read(0, 4096)
            if not chunk:
                return None
            *lines, buffered = (buffered + chunk).split(b"\n")
            if b"kill" in lines:
                return None
            if b"term" in lines:
                os.kill(pid, signal.SIGTERM)  # not reaped yet, so the number is still its own


def _reap(pid: int) -> int | None:
    """Bury whoever has ended; the engine's wait status if it was among them."""
    found: int | None = None
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if ended == 0:
            return found
        if ended == pid:
            found = status


def _sweep(pid: int, status: int | None, wake_reader: int) -> tuple[int, int]:
    """Kill all that is left until nothing is; the engine's wait status, and how many others there were."""
    killed: set[int] = set()
    begun_s = time.monotonic()
    alone_since_s: float | None = None
    complained = False
    while True:
        left = _descendants()
        doomed = {process for process in left if not _is_tracker(process)}
        if doomed:
            alone_since_s = None
        elif alone_since_s is None:
            alone_since_s = time.monotonic()
        elif time.monotonic() - alone_since_s > TRACKER_GRACE_S:
            doomed = left
        for process in doomed:
            killed.add(process)
            _kill(process)
        try:
            while True:
                ended, found = os.waitpid(-1, os.WNOHANG)
                if ended == pid:
                    status = found
                if ended == 0:
                    break
        except ChildProcessError:
            return status or 0, len(killed - {pid})
        if not complained and time.monotonic() - begun_s > COMPLAIN_AFTER_S:
            complained = True
            os.write(2, f"the guard waits for processes that do not die: {sorted(_descendants())}\n".encode())
        # A child may fork between our look and our kill, and what it forked makes no SIGCHLD: look again
        # soon.
        select.select([wake_reader], [], [], 0.05)
        _drain(wake_reader)


def _descendants() -> set[int]:
    """All processes below the guard; the engine's orphans are among them, the guard being their subreaper."""
    if not ON_LINUX:
        return set()
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The command's name, in brackets, may itself have brackets and spaces.
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError):
            continue  # it has gone meanwhile
        children.setdefault(parent, []).append(int(name))
    found: set[int] = set()
    pending = [os.getpid()]
    while pending:
        for child in children.get(pending.pop(), ()):
            found.add(child)
            pending.append(child)
    return found


def _is_tracker(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"multiprocessing.resource_tracker" in file.read()
    except OSError:
        return False  # it has gone meanwhile


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it was quicker
    except PermissionError as error:
        os.write(2, f"the guard may not kill process {pid}: {error.strerror}\n".encode())


def _kill_group(pgid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # empty, or of zombies only
        os.killpg(pgid, signal.SIGKILL)


def _drain(reader: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(reader, 4096):
            pass


def _report(line: str) -> None:
    with contextlib.suppress(OSError):  # the gateway is gone; there is still work to do
        os.write(1, line.encode() + b"\n")


def _prctl(option: int, value: int) -> bool:
    return ON_LINUX and ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[sys.argv.index("--") + 1 :]))
