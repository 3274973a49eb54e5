"""The composition root: a ``Settings`` becomes a running gateway, and a signal becomes an orderly end.

Order of a start: listen first, then start the engine, so that the gateway answers from its first second. Order of an
end: refuse newcomers and say so in ``/ready``, linger for balancers, finish what runs and waits, stop the engine, let
the server go. uvicorn would close its listeners first and nobody would hear ``draining``, so its signal handling is
not used.

Long, since a composition root names every part of the house once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import ipaddress
import logging
import os
import resource
import secrets
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import uvicorn

from headgate import __version__
from headgate.api import admin, console, events, operations, problems
from headgate.api.application import Application
from headgate.api.auth import ANONYMOUS, Keys
from headgate.api.connection import Connection, cancel_arriving, close_after_answers
from headgate.api.console import burst, reference
from headgate.api.generation import Generation
from headgate.api.guard import Guard, Sweep
from headgate.call import Limits, priority
from headgate.charges import Charges
from headgate.coalescing import Coalescing
from headgate.engines import Engines
from headgate.errors import Reason, Refusal
from headgate.flow import Flow
from headgate.gate import Bin, Gate, Ledger, Shedder, emptiest, make_order
from headgate.gate.bookings import Bookings
from headgate.gate.shared import Shared
from headgate.keys import KeysError
from headgate.keys.book import Book
from headgate.picture import Picture
from headgate.pool.history import History
from headgate.pool.keep import Keep
from headgate.pool.launchers import Launch
from headgate.pool.launchers.remote import RemoteLauncher, parse_urls
from headgate.pool.launchers.simulated import SimulatedLauncher
from headgate.pool.launchers.vllm import VllmLauncher, find_executable
from headgate.pool.lifecycle import State
from headgate.pool.pool import Pool
from headgate.pool.probe import Probe, Slow, Unreachable
from headgate.pool.supervisor import Supervisor
from headgate.quotas import Quotas
from headgate.relay import express
from headgate.settings import SIMULATED_MODEL, Engine, Settings, SettingsError
from headgate.sizing import Intervals, Sizing, Tempo
from headgate.telemetry import logs
from headgate.telemetry.gpu import Gpus
from headgate.telemetry.lag import LoopLag
from headgate.telemetry.metrics import OTHER, Metrics
from headgate.telemetry.nvml import Driver
from headgate.telemetry.outlet import Outlet
from headgate.telemetry.slo import Objectives

if TYPE_CHECKING:
    from headgate.telemetry.tracing import Tracer

log = logging.getLogger("headgate")

KEEP_ALIVE_S = 75.0
"""How long a client's connection may idle: longer than the minute of most balancers, so that they close first."""

EXIT_CLEAN = 0
EXIT_START_FAILED = 1
EXIT_BAD_SETTINGS = 2
EXIT_DRAIN_LIMIT = 3

MMAP_BYTES = 128 * 1024
_M_MMAP_THRESHOLD = -3


class StartError(Exception):
    """The gateway can't start: one line that says why, and the mend."""


def launchers(settings: Settings) -> list[Callable[[], Launch]]:
    """What starts each engine.

    Raises:
        SettingsError: a URL, or an argument for the engine, that can't be.
        StartError: it can't be started here.
    """
    try:
        args = tuple(shlex.split(settings.engine_args))
        kind = settings.engine_kind
        if kind is Engine.REMOTE:
            return [RemoteLauncher(each, settings.engine_api_key) for each in parse_urls(settings.engine_urls)]
        if kind is Engine.SIMULATED:
            return [
                SimulatedLauncher(
                    settings.served_model_name or SIMULATED_MODEL, args=args, api_key=settings.engine_api_key
                )
            ]
        if find_executable(settings.engine_command) is None:
            raise StartError(
                f"`{settings.engine_command}` is not on the path, so {settings.model} can't be served. Install it "
                "(`pip install vllm`), or name it with HEADGATE_ENGINE_COMMAND; `headgate serve` with no MODEL runs "
                "the simulated engine."
            )
        assert settings.model is not None
        names = (settings.served_model_name,) if settings.served_model_name else ()
        return [VllmLauncher(settings.model, names, args, settings.engine_command, api_key=settings.engine_api_key)]
    except ValueError as error:
        raise SettingsError(str(error)) from None


def keep_of(settings: Settings, name: str) -> Keep:
    """How this gateway's engine outlives it: known by the gateway's own port, of which a machine has one."""
    return Keep(settings.cache_dir, f"engine-{settings.port}-{name}", wanted=settings.engine_keep)


def tracer(endpoint: str | None) -> Tracer | None:
    """What sends spans there; None where they go nowhere. OpenTelemetry is imported only where it is used."""
    if endpoint is None:
        return None
    try:
        from headgate.telemetry.tracing import Tracer
    except ImportError as error:
        what = "OTEL_EXPORTER_OTLP_ENDPOINT is set, and nothing is traced (%s): %s -m pip install %s"
        log.warning(what, error, sys.executable, "opentelemetry-exporter-otlp-proto-http")
        return None
    return Tracer(endpoint, __version__)


def _book(settings: Settings) -> Book | None:
    """Raises SettingsError: the file of keys can't be taken."""
    path = settings.api_keys_file
    if path is None:
        return None
    try:
        return Book(path)
    except KeysError as error:
        mend = "" if path.exists() else f" `headgate keys add NAME --file {path}` makes it."
        raise SettingsError(f"API_KEYS_FILE = {str(path)!r}: {error}{mend}") from None


def _quotas(settings: Settings, clock: Callable[[], float]) -> Quotas | None:
    """What callers may ask for in a minute; None where nobody can have a limit.

    Raises:
        SettingsError: REDIS_URL can't be.
        StartError: redis-py isn't installed.
    """
    shared: Shared | None = None
    if settings.redis_url is not None:
        try:
            shared = Shared(settings.redis_url)
        except ImportError:
            mend = f"Install it: `{sys.executable} -m pip install redis`."
            raise StartError(f"REDIS_URL needs redis-py, which isn't installed. {mend}") from None
        except ValueError:
            raise SettingsError("REDIS_URL = (hidden): it can't be read; redis://host:6379/0 can.") from None
    if shared is None and settings.api_keys_file is None and settings.rate_limit_per_min is None:
        return None
    return Quotas(clock, requests_per_min=settings.rate_limit_per_min, shared=shared)


FILES_KEPT = 256
"""Open files that are not for clients: the listener, the log, what Python reads."""


def _guard(settings: Settings, refused: Callable[[Refusal], object], *, is_open: bool) -> Guard:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    name = settings.host.lower()
    return Guard(
        # A client is a file, and so are its connection to the engine and what a lane between the two takes.
        connections=settings.max_connections or max((files - FILES_KEPT) // (2 + express.FILES), 64),
        head_bytes=settings.max_head_bytes,
        head_timeout_s=settings.head_timeout_s,
        keep_alive_s=KEEP_ALIVE_S,
        body_timeout_s=min(settings.body_timeout_s, settings.request_timeout_s),
        stall_s=settings.send_stall_s,
        refused=refused,
        origins=frozenset(settings.cors_origins),
        is_open=is_open,
        is_local=is_loopback(name),
        names=frozenset((name,)),
    )


def is_loopback(host: str) -> bool:
    """Whether what listens there can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Gateway:
    """Everything that runs, for one event loop."""

    def __init__(self, settings: Settings, log_stream: logs.Stream, *, log_as_json: bool) -> None:
        self.settings = settings
        self._clock = time.monotonic
        self.admin_key = settings.admin_key or secrets.token_urlsafe(24)
        self._book = _book(settings)
        keys = Keys(settings.api_key, self.admin_key, self._book)
        self.metrics = Metrics()
        self.log = logs.RequestLog(log_stream, as_json=log_as_json, level=settings.log_level)
        self.draining = False
        self._gate = Gate(
            Ledger(
                queue_mode=settings.queue_mode,
                queue_max=settings.queue_max,
                queue_max_bytes=settings.queue_max_bytes,
                queue_timeout_s=settings.queue_timeout_s,
                wake_timeout_s=settings.wake_timeout_s,
                choose=self._choose,
                order=make_order(settings.queue_order, capped=settings.api_keys_file is not None),
            ),
            clock=self._clock,
        )
        history = History(settings.cache_dir / "starts.json")
        supervisors = [
            Supervisor(
                name,
                launch,
                clock=self._clock,
                history=history,
                wedged_after_s=settings.wedged_after_s,
                start_timeout_s=settings.start_timeout_s,
                in_flight=partial(self._held, name),
                relayed=partial(self._relayed, name),
                keep=keep_of(settings, name),
            )
            for name, launch in ((f"e{i}", launch) for i, launch in enumerate(launchers(settings)))
        ]
        self.pool = Pool(supervisors, max_active=settings.max_active, clock=self._clock)
        self.engines = Engines(self.pool, on_capacity=self._capacity, clock=self._clock)
        objectives = Objectives(
            settings.slo_ttft_s,
            settings.slo_itl_ms / 1e3 if settings.slo_itl_ms is not None else None,
            settings.slo_latency_s,
        )
        self._sizing = (
            Sizing(self.pool, self._gate, objectives, paced=not settings.preempt)
            if settings.max_active is None
            else None
        )
        self._tempo = Tempo(self.pool, self._gate)
        charges = self._charges()
        self._tracer = tracer(settings.otel_exporter_otlp_endpoint)
        self.quotas = _quotas(settings, self._clock)
        self._flow = Flow(
            self._gate,
            self.engines,
            self.metrics,
            self.log,
            Limits(
                settings.request_timeout_s,
                settings.status_hold_s,
                queue_max=settings.queue_max,
                preempt=settings.preempt,
                slo=objectives,
            ),
            self._clock,
            charges.hold if charges is not None else None,
            self._tracer,
            Shedder() if settings.shed else None,
            self.quotas,
            Bookings() if settings.queue_order != "fifo" else None,
        )
        self._intervals = Intervals(
            self.pool,
            self._gate,
            objectives,
            streams=self._flow.streams,
            ask_for=self.engines.ask_for,
            most=settings.stream_interval_max,
        )
        self.metrics.before_collecting = self._flow.count
        self.gpus = Gpus(
            Driver(os.environ.get("CUDA_VISIBLE_DEVICES")),
            clock=self._clock,
            on_sample=charges.sampled if charges is not None else None,
        )
        self._picture = Picture(
            settings,
            self._gate,
            self._flow,
            self.pool,
            self.metrics,
            objectives,
            LoopLag(asyncio.get_running_loop(), self._clock),
            self.gpus,
            keys,
            draining=lambda: self.draining,
            clock=self._clock,
            charges=charges,
            quotas=self.quotas,
        )
        self._viewers = events.Viewers()
        self._looks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._coalescing = Coalescing(
            self._loop, (settings.coalesce_ms or 0.0) / 1e3, events=lambda: self._flow.events, clock=self._clock
        )
        self._loop.call_later(1.0, self._tick)
        self.metrics.watch(self._picture.states)
        self.metrics.watch(self._coalescing.states)
        self.metrics.watch(self._intervals.states)
        if self._sizing is not None:
            self.metrics.watch(self._sizing.states)
        self.metrics.watch(self.gpus.states)
        if charges is not None:
            self.metrics.watch(charges.states)
        if self.quotas is not None:
            self.metrics.watch(self.quotas.states)
        self.generation = Generation(
            self._flow,
            keys,
            self.metrics,
            max_body_bytes=settings.max_body_bytes,
            final_event=settings.final_event,
            default_model=lambda: self.engines.default_model,
            clock=self._clock,
            trusted_proxies=settings.trusted_proxies,
            with_client=settings.log_client,
            one_engine=len(self.pool.engines) == 1,
        )
        views = operations.Views(
            self._picture.ready,
            self._picture.status,
            self._picture.status_with_recent,
            lambda: list(self.pool.models()),
            lambda: [engine.name for engine in self.pool.engines],
            self._engine_metrics,
        )
        closed = settings.ops_auth == "key"
        routers = [
            operations.router(views, self.metrics, keys, closed=closed, version=__version__),
            events.router(self._viewers, self._picture.status_with_recent, keys, closed=closed),
            console.router(keys, __version__, closed=closed),
            burst.router(burst.Bursts(self._flow, self._clock), keys),
            admin.router(keys, self._restart),
            reference.router(lambda: self.application.fastapi.openapi(), keys, closed=closed),
        ]
        self.guard = _guard(settings, self._turned_away, is_open=keys.is_open)
        self.application = Application(routers, self.metrics, __version__, self.guard, new_id=self._flow.new_id)

    def _charges(self) -> Charges | None:
        gpu, energy = self.settings.gpu_price_per_hour, self.settings.energy_price_per_kwh
        if gpu is None and energy is None:
            return None
        return Charges(self.pool, self.metrics, clock=self._clock, gpu_price_per_hour=gpu, energy_price_per_kwh=energy)

    def _turned_away(self, refusal: Refusal) -> None:
        """A connection brought what never became a request."""
        status = str(problems.STATUS[refusal.reason])
        self.metrics.requests.add((OTHER, OTHER, ANONYMOUS, status, refusal.reason))
        if refusal.reason is Reason.TOO_MANY_CONNECTIONS:  # for want of room, whatever it would have been
            self.metrics.refusals.add((refusal.reason, priority(0), OTHER, ANONYMOUS))

    # The pool and the gate, joined.

    def _choose(self, bins: Sequence[Bin], weight: int) -> Bin:
        well = [a_bin for a_bin in bins if not self.engines.is_avoided(a_bin.engine)]
        by_name = {a_bin.engine: a_bin for a_bin in well or bins}
        chosen = self.pool.choose(lambda name: by_name[name].active, weight, among=by_name)
        return by_name[chosen.name] if chosen is not None else emptiest(bins, weight)

    def _capacity(self, engine: str, slots: int) -> None:
        self._gate.expect(self.pool.eta_s())
        self._gate.resize(engine, slots)

    def _held(self, engine: str) -> int:
        return self._gate.held_on(engine)

    def _relayed(self, engine: str) -> int:
        return self._flow.relayed(engine)

    def _restart(self, engine: str) -> tuple[State, bool]:
        supervisor = self.pool.engine(engine)
        if supervisor is None:
            raise KeyError(engine)
        if self.draining:  # it would start while the others are stopped, and nobody would stop it
            raise Refusal(Reason.DRAINING, "The gateway is shutting down, and its engines with it.", retry_after_s=1.0)
        was, launch = supervisor.state, supervisor.launch
        supervisor.restart()
        return was, launch is None or launch.is_ours

    # What is shown.

    def _tick(self) -> None:
        self._loop.call_later(1.0, self._tick)
        self._coalescing.look()
        self._tempo.tick()
        self._intervals.tick(self._clock())
        if self._sizing is not None:
            self._sizing.tick(self._clock())
        self._flow.tell_places()
        if self._book is not None:
            self._looks.add(look := self._loop.create_task(self._book.look(), name="keys file"))
            look.add_done_callback(self._looks.discard)
        self._picture.tick(time.time())
        if self._viewers:
            self._viewers.publish(events.event(self._picture.status_with_point()))

    async def _engine_metrics(self, name: str) -> tuple[str, bytes]:
        supervisor = self.pool.engine(name)
        if supervisor is None:
            raise Refusal(Reason.NOT_FOUND, f"There is no engine `{name}`.")
        launch = supervisor.launch
        if supervisor.address is None or launch is None or not supervisor.slots:
            raise Refusal(Reason.ENGINE_UNAVAILABLE, f"Engine `{name}` is {supervisor.state}.", retry_after_s=5.0)
        try:
            answer = await Probe(supervisor.address, answer_s=5.0, api_key=launch.api_key).page()
        except (Unreachable, Slow) as error:
            raise Refusal(Reason.ENGINE_FAILED, f"Engine `{name}` can't be asked: {error}.") from None
        if answer.status != 200:
            what = f"Engine `{name}` answered {answer.status} when it was asked for its metrics."
            raise Refusal(Reason.ENGINE_FAILED, what)
        return answer.content_type or "text/plain; charset=utf-8", answer.body

    # Its end.

    async def drain(self) -> bool:
        """Refuse newcomers, finish what runs and waits, stop the engines. Whether it was done within the limit."""
        limit_s = self.settings.drain_timeout_s
        self.draining = True
        self._gate.close(limit_s)
        self._viewers.close(lambda: events.event(self._picture.status_with_point()))
        at = self._gate.statistics()
        log.info("draining: %d of %d slots are held, %d wait", at.active, at.slots, at.waiting)
        clean = True
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.sleep(self.settings.drain_linger_s)
                await self._gate.wait_idle()
        except TimeoutError:
            clean = False
            log.warning("the drain limit of %g s is reached: %d answers were cut short", limit_s, self.cut_short())
        await self.pool.stop()
        self._coalescing.stop()
        self.engines.close()
        self.gpus.stop()
        if self.quotas is not None:
            await self.quotas.stop()
        self.log.flush()
        if self._tracer is not None:
            await self._tracer.close()
        return clean

    def cut_short(self) -> int:
        """End all that runs and waits, each told why; how many answers that cut."""
        self._gate.evict()
        return self._flow.cut_all(Refusal(Reason.DRAINING, "The gateway is shutting down.", retry_after_s=1.0))


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handling, and with its tick, which is for the date header, once a second
    instead of ten times: when to end is the gateway's decision."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._ending.wait()

    def end(self, *, at_once: bool = False) -> None:
        """Close the listener and the connections, once what they wait for is done or ``at_once``; ``serve`` returns."""
        self.should_exit = True
        self.force_exit = at_once
        self._ending.set()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        StartError: the port is taken, or the address isn't ours.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
        listener.setblocking(False)
    except OSError as error:
        mend = "Take another with --port, or end what listens there." if error.errno == 98 else "See --host and --port."
        raise StartError(f"Can't listen on {host}:{port}: {error.strerror or error}. {mend}") from None
    return listener


def serve(settings: Settings, *, announce: Callable[[Gateway, str], None]) -> int:
    """Run the gateway until a signal ends it; its exit status.

    Raises:
        StartError: it can't start.
    """
    stream = logs.default_stream()
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())
    with contextlib.closing(Outlet(stream.fileno())) as outlet:
        logs.configure(outlet, as_json=as_json, level=settings.log_level)
        _raise_file_limit()
        _give_memory_back()
        listener = listen(settings.host, settings.port)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_run(settings, listener, outlet, as_json, announce))


def _raise_file_limit() -> None:
    """A client is a file, and so is its engine connection: take as many as the hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _give_memory_back() -> None:
    """Have large buffers returned to the system when they are freed.

    glibc does so above a threshold, and raises it to the largest that was ever freed: one long body, and those that
    follow lie among small things in the heap, which then never shrinks. A threshold that is set stays where it is.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, MMAP_BYTES)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


async def _second(ends: asyncio.Queue[signal.Signals]) -> None:
    """Wait for somebody to say again that it is to end. SIGHUP says nothing new.

    A terminal that closes sends two, the shell's and the kernel's, and systemd may send one behind its SIGTERM.
    """
    while await ends.get() is signal.SIGHUP:
        pass


async def _run(
    settings: Settings,
    listener: socket.socket,
    stream: logs.Stream,
    as_json: bool,
    announce: Callable[[Gateway, str], None],
) -> int:
    gateway = Gateway(settings, stream, log_as_json=as_json)
    config = uvicorn.Config(
        gateway.application,
        interface="asgi3",
        http=partial(Connection, guard=gateway.guard, roads=gateway.generation.roads),  # type: ignore[arg-type]
        proxy_headers=False,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()
    ends: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # which is how nohup does it
            loop.add_signal_handler(number, ends.put_nowait, number)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="server")
    host, port = listener.getsockname()[:2]
    announce(gateway, f"http://{f'[{host}]' if ':' in host else host}:{port}")
    sweep = Sweep(server.server_state.connections, gateway.guard)
    gateway.pool.start()
    gateway.gpus.start()
    if gateway.quotas is not None:
        gateway.quotas.start()
    # What was imported and built so far lives as long as the process: keep the collector from walking it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 5, 5)
    await ends.get()
    close_after_answers(server.server_state)
    draining = asyncio.create_task(gateway.drain(), name="drain")
    again = asyncio.create_task(_second(ends), name="second signal")
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
        log.warning("a second signal: ending at once, %d answers were cut short", gateway.cut_short())
        cancel_arriving(server.server_state)
        await gateway.pool.stop(at_once=True)
        server.end(at_once=True)
        await serving  # nobody is answered any more who would miss in the log
        gateway.log.flush()
        return EXIT_DRAIN_LIMIT
    again.cancel()
    sweep.stop()
    server.end()
    await serving
    gateway.log.flush()
    return EXIT_CLEAN if draining.result() else EXIT_DRAIN_LIMIT
