"""Starts, pins, meters and stops the processes of a run.

CPU is read from the kernel's per-process CPU clock (nanoseconds, of all threads, those that have ended
included); for children that have ended, from their parent's count of them (10 ms steps). Memory is the sum of
the tree's peaks.

Every process gets a session of its own, and only what was started here is stopped. Linux only.
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

CPUCLOCK_SCHED = 2
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
STOP_WITHIN_S = 5.0


@contextlib.contextmanager
def on_cores(cores: set[int] | None) -> Iterator[None]:
    """Children inherit the cores of their parent: a router that counts cores at its start counts its own."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Process:
    """One started program and all that it starts."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cores: set[int] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
        piped: bool = False,
    ) -> None:
        with contextlib.ExitStack() as stack:
            output = subprocess.DEVNULL if log is None else stack.enter_context(log.open("ab")).fileno()
            stack.enter_context(on_cores(cores))
            self._popen = subprocess.Popen(
                argv,
                env=env,
                cwd=cwd,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_status(self) -> int | None:
        return self._popen.poll()

    def write_line(self, line: bytes) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(line)
        self._popen.stdin.flush()

    def write_all(self, text: bytes) -> None:
        """All that it is told: its stdin ends."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(text)
        self._popen.stdin.close()

    def read_line(self, within_s: float) -> bytes:
        """Empty where the process has ended. For talks of one line at a time: nothing waits in the buffer."""
        assert self._popen.stdout is not None
        if not select.select([self._popen.stdout], [], [], within_s)[0]:
            raise TimeoutError(f"process {self.pid} said nothing for {within_s:.0f} s")
        return self._popen.stdout.readline()

    def cpu_ns(self) -> int:
        return sum(_cpu_ns(pid) for pid in tree(self.pid))

    def peak_rss_bytes(self) -> int:
        return sum(_peak_rss_bytes(pid) for pid in tree(self.pid))

    def stop(self) -> None:
        """SIGTERM, some seconds, then SIGKILL for its whole session."""
        if self._popen.poll() is None:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(STOP_WITHIN_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def tree(root: int) -> list[int]:
    """The process and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry))
    found, unseen = [], [root]
    while unseen:
        pid = unseen.pop()
        found.append(pid)
        unseen.extend(children.get(pid, ()))
    return found


def machine_busy_ns() -> int:
    """What the machine's cores were busy with, together; what a hypervisor gave to others counts, too."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = (
        int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) * TICK_NS


def speed_ms(cores: set[int] | None) -> float:
    """The CPU time of a piece of work that is always the same, on these cores: how fast the machine is just now.

    A shared host slows a machine in ways that show nowhere else.
    """
    with on_cores(cores):
        started_ns = time.thread_time_ns()
        seen: dict[int, bytes] = {}
        for number in range(60_000):
            seen[number % 997] = b"%x" % number
        return (time.thread_time_ns() - started_ns) / 1e6


def _cpu_ns(pid: int) -> int:
    try:
        living = time.clock_gettime_ns((~pid << 3) | CPUCLOCK_SCHED)
    except OSError:
        return 0
    fields = _stat(pid)
    ended_children = (int(fields[13]) + int(fields[14])) * TICK_NS if fields else 0
    return living + ended_children


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from `state` on; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []


def _peak_rss_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
