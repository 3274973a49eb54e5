"""Users for Locust that stream and users that don't, on any OpenAI-compatible URL: ``make loadtest``.

Prompts, workloads, arrivals, the check of an answer and the SLO are those of ``headgate bench``: only the sending is
Locust's. Besides Locust's own row for each request there are rows of these types:

    TTFT         to the first event with text
    inter-token  the mean gap between two events of a stream
    tokens/s     of one answer: not milliseconds, though the column says so

The "size" of a request and of tokens/s is the answer's tokens. A request that was not answered whole is a failure and
has no time; one that had not ended with the run, ``--stop-timeout`` after its last second, is one too. Locust's
"Aggregated" line adds all rows up: look at the rows.

A user waits for its answer before it sends the next request, so under overload less is sent (a closed loop). With
``--rate`` requests are due at random times, whoever is still waiting, and their times count from there (an open one).
"""

from __future__ import annotations

import logging
import random
import re
import secrets
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
from geventhttpclient import HTTPClient
from locust import LoadTestShape, User, constant, events, task
from locust.exception import StopUser
from locust.runners import WorkerRunner
from locust.stats import CSV_STATS_INTERVAL_SEC

from headgate.workbench.bench import arrivals, slo, tables, target
from headgate.workbench.bench.answer import Answer, Seen
from headgate.workbench.bench.callers import BadCaller, Caller
from headgate.workbench.bench.figures import spread
from headgate.workbench.bench.raw import Outcome, Plan
from headgate.workbench.bench.workload import WORKLOADS, Workload, workload

TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30
NOBODY_THERE_S = 1.0
"""Else the share of errors tells how fast a client can fail."""
BAD = 2

_REFUSED = re.compile(r"\b(429|503) ")

log = logging.getLogger("loadtest")
logging.getLogger("httpx").setLevel(logging.WARNING)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def arguments(parser: Any) -> None:
    """What this load has beside Locust's own options; they are fields of its page, too."""
    parser.add_argument("--workload", choices=WORKLOADS, default="fixed", help="What is asked (200 in, 200 out).")
    parser.add_argument("--input-tokens", type=int, default=200, help="Of a prompt.")
    parser.add_argument("--output-tokens", type=int, default=200, help="Of an answer.")
    parser.add_argument("--shape", default="", help="Users over time: ramp:1-20, step:5,10,20 or spike:5,50.")
    parser.add_argument("--rate", default="", help="Open loop: 10, ramp:1-20, step:… or spike:… requests/s (Poisson).")
    parser.add_argument("--streaming-percent", type=int, default=75, help="Of the users, or of the requests.")
    parser.add_argument("--seed", type=int, default=0, help="Repeats prompts and arrivals; 0 draws one.")
    parser.add_argument("--model", default="", help="The first of /v1/models where empty.")
    parser.add_argument("--api-key", default="", env_var="HEADGATE_API_KEY", is_secret=True, help="Sent by all.")
    parser.add_argument("--slo", default="", help="TOML; latency p95 5 s, errors 0.1 % where empty.")


class BadOption(Exception):
    """One line that says which, and what it takes."""


def check(options: Any) -> None:
    """Refuse what is no load. Raises BadOption."""
    if not 0 <= options.streaming_percent <= 100:
        raise BadOption(f"--streaming-percent {options.streaming_percent}: it takes 0 to 100")
    for name in ("input_tokens", "output_tokens"):
        if getattr(options, name) < 1:
            raise BadOption(f"--{name.replace('_', '-')} {getattr(options, name)}: it takes 1 at least")
    if options.rate and options.shape:
        raise BadOption("--rate is an open load and --shape a number of users: give one of them")


class Load:
    """What all users share: the target, and the requests that they take in turn."""

    def __init__(self, environment: Any) -> None:
        options = environment.parsed_options
        self.environment = environment
        self.seed = options.seed or secrets.randbelow(2**32)
        self.caller = Caller(key=options.api_key or None)
        # Each worker of a distributed run has words of its own.
        salt = f"{self.seed}/{getattr(environment.runner, 'worker_index', 0)}"
        self.plans = {stream: self._plan(options, stream, salt) for stream in (True, False)}
        self.aim = target.find(self.plans[True], environment.host, [self.caller], model=options.model or None)
        self.work: Workload = workload(self.plans[True], self.aim.scale)
        self.headers = {"content-type": "application/json", **target.headers(self.caller)}
        self.client = HTTPClient(
            self.aim.address.host,
            self.aim.address.port,
            concurrency=100_000,
            ssl=self.aim.address.tls,
            connection_timeout=TIMEOUT_S,
            network_timeout=TIMEOUT_S,
        )
        self._number = 0
        self._dice = random.Random(f"{salt}/streams")
        self._streaming = options.streaming_percent / 100

    @staticmethod
    def _plan(options: Any, stream: bool, salt: str) -> Plan:
        return Plan(
            stream=stream,
            workload=options.workload,
            input_tokens=options.input_tokens,
            output_tokens=options.output_tokens,
            salt=salt,
        )

    def streams(self) -> bool:
        """Whether the next request of an open loop does."""
        return bool(self._dice.random() < self._streaming)

    def send(self, *, stream: bool, due: float | None = None) -> Seen:
        """One request, from the moment it was due to its end, and its rows in Locust's statistics."""
        number, self._number = self._number, self._number + 1
        ask = self.work.ask(number, self.caller.name)
        began = monotonic() if due is None else due
        answer = Answer(stream=stream, keep=ask.keep, ended=lambda: None)
        try:
            self._exchange(answer, self.aim.body(self.plans[stream], ask), stream=stream)
        finally:
            answer.give_up("run_ended", Outcome.UNFINISHED)  # of one that was killed; nothing where it has ended
            seen = answer.seen
            self.work.ended(ask, self.caller.name, seen.text if seen.outcome is Outcome.OK else None)
            self._tell(seen, began, f"{self.aim.target.path} {'streamed' if stream else 'whole'}")
        return seen

    def send_as_user(self, *, stream: bool) -> None:
        """One request of a user, who doesn't hammer at a door that nobody opens."""
        if self.send(stream=stream).reason == "no_connection":
            gevent.sleep(NOBODY_THERE_S)

    def _exchange(self, answer: Answer, body: bytes, *, stream: bool) -> None:
        try:
            with gevent.Timeout(TIMEOUT_S, TimeoutError):
                reply = self.client.request("POST", self.aim.target.path, body, self.headers)
                answer.on_head(reply.status_code, [(n.lower().encode(), v.encode()) for n, v in reply.items()])
                if stream and reply.status_code == 200:
                    while line := reply.readline(b"\n"):  # not by events: theirs may end in CRLF
                        answer.on_data(line)
                answer.on_data(reply.read())
                answer.on_end()
        except TimeoutError:
            answer.give_up("client_timeout")
        except Exception as error:  # geventhttpclient, sockets and TLS have each their own
            answer.give_up("no_connection" if not answer.seen.status else f"cut: {type(error).__name__}")

    def _tell(self, seen: Seen, began: float, name: str) -> None:
        tokens = seen.events if seen.completion_tokens is None else seen.completion_tokens
        failure = None
        if seen.outcome is not Outcome.OK:
            failure = Failure(f"{seen.status} {seen.reason}" if seen.status else seen.reason)
        took_ms = (seen.ended_at - began) * 1000
        if failure is not None:
            # With no time: a refusal comes at once, and would make the percentiles of a full gateway look fast.
            self._fire("POST", name, None, tokens, failure)
            return
        self._fire("POST", name, took_ms, tokens)
        if seen.first_at:
            self._fire("TTFT", name, (seen.first_at - began) * 1000)
        if seen.gaps_ms:
            self._fire("inter-token", name, sum(seen.gaps_ms) / len(seen.gaps_ms))
        self._fire("tokens/s", name, tokens / max(took_ms, 1e-6) * 1000, tokens)

    def _fire(
        self, kind: str, name: str, number: float | None, length: int = 0, failure: Exception | None = None
    ) -> None:
        """A row's next value, in milliseconds but for tokens/s."""
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=number,
            response_length=length,
            exception=failure,
            context={},
        )


class Failure(Exception):
    """A request that was not answered whole: its status and reason, by which Locust groups."""


def load_of(environment: Any) -> Load:
    """The load of this run; there is none where its target can't be reached."""
    load = getattr(environment, "headgate_load", None)
    if not isinstance(load, Load):
        raise StopUser
    return load


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def prepare(environment: Any, **_: Any) -> None:
    """Look at the target before the first user comes: what it takes, and how many tokens a word is."""
    options = environment.parsed_options
    environment.headgate_load = environment.headgate_slo = environment.process_exit_code = None
    # Locust's own is none: whoever is under way at the end would be in no figure, the slowest among them.
    environment.stop_timeout = environment.stop_timeout or STOP_TIMEOUT_S
    try:
        check(options)
        StreamingUser.weight = options.streaming_percent
        WholeUser.weight = 100 - StreamingUser.weight
        if not isinstance(environment.runner, WorkerRunner):  # who judges nothing, and may not have the file
            environment.headgate_slo = slo.read(Path(options.slo)) if options.slo else list(slo.DEFAULT)
        load = environment.headgate_load = Load(environment)
    except (BadOption, BadCaller, target.Unreachable, slo.BadSlo) as error:
        log.error("%s", error)
        environment.process_exit_code = BAD
    else:
        log.info("%s, %s (%s); seed %d", load.aim.target.url, load.aim.target.model, load.aim.target.server, load.seed)


class StreamingUser(User):  # type: ignore[misc]  # Locust's classes are untyped here
    """Reads its answers as they are made."""

    wait_time = constant(0)

    @task  # type: ignore[untyped-decorator]
    def chat(self) -> None:
        """One request after the other."""
        load_of(self.environment).send_as_user(stream=True)


class WholeUser(User):  # type: ignore[misc]
    """Waits for the whole answer."""

    wait_time = constant(0)

    @task  # type: ignore[untyped-decorator]
    def chat(self) -> None:
        """One request after the other."""
        load_of(self.environment).send_as_user(stream=False)


class Arrivals(User):  # type: ignore[misc]
    """Not a user but a crowd: sends each request when it is due, and waits for none of them."""

    fixed_count = 1
    wait_time = constant(0)

    @task  # type: ignore[untyped-decorator]
    def all_of_them(self) -> None:
        """The whole schedule; then this user is done."""
        options = self.environment.parsed_options
        load = load_of(self.environment)
        shape = arrivals.shape(options.rate, options.run_time or 60)
        began = monotonic()
        sent = []
        try:
            for at_s in arrivals.times(shape, arrivals.poisson(random.Random(f"{load.seed}/arrivals"))):
                due = began + at_s
                gevent.sleep(max(0.0, due - monotonic()))
                sent.append(gevent.spawn(load.send, stream=load.streams(), due=due))
            gevent.joinall(sent, timeout=self.environment.stop_timeout)
        finally:
            gevent.killall(sent)
        raise StopUser


class OverTime(LoadTestShape):  # type: ignore[misc]
    """How many users there are: as Locust's own options say, or ``--shape`` over the run's time; one for ``--rate``."""

    use_common_options = True

    def tick(self) -> tuple[int, float, list[type]] | None:
        """Asked about once a second."""
        environment = self.runner.environment
        options = environment.parsed_options
        if self.get_current_user_count() and environment.headgate_load is None:
            return None
        length_s = options.run_time or 60
        try:
            shapes = {text: arrivals.shape(text, length_s) for text in (options.shape, options.rate) if text}
        except arrivals.BadShape as error:
            log.error("%s", error)
            environment.process_exit_code = BAD
            return None
        passed_s = self.get_run_time()
        if (options.run_time or options.shape or options.rate) and passed_s > length_s:
            return None
        if options.rate:
            return 1, 1, [Arrivals]
        shares = {StreamingUser: options.streaming_percent, WholeUser: 100 - options.streaming_percent}
        users: list[type] = [user for user, share in shares.items() if share > 0]
        if options.shape:
            count = max(1, round(shapes[options.shape].rate_at(passed_s)))
            return count, count, users
        return options.num_users or 1, options.spawn_rate or 1, users


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def judge(environment: Any, **_: Any) -> None:
    """The verdict, and the exit status: 0 the SLO was met, 1 missed."""
    if environment.parsed_options.csv_prefix:
        gevent.sleep(2 * CSV_STATS_INTERVAL_SEC)  # its files are written so often, and not at the end
    objectives = getattr(environment, "headgate_slo", None)
    if environment.process_exit_code is not None or objectives is None:
        return
    rows = environment.stats.entries.values()
    requests = [row for row in rows if row.method == "POST"]
    asked = sum(row.num_requests for row in requests)
    failed = sum(row.num_failures for row in requests)
    # Here an error is an exception, of a worker's the text in which it came.
    refused = sum(error.occurrences for error in environment.stats.errors.values() if _REFUSED.search(str(error.error)))
    times = {
        "latency": spread(seconds(row for row in requests)),
        "ttft": spread(seconds(row for row in rows if row.method == "TTFT")),
        "inter_token": spread(seconds(row for row in rows if row.method == "inter-token")),
        "tpot": None,
    }
    tokens = sum(row.total_content_length for row in requests)
    over_s = max(environment.stats.total.last_request_timestamp - environment.stats.start_time, 1e-9) if asked else 1.0
    seen = slo.Seen(times, failed - refused, refused, asked, None, (asked - failed) / over_s, tokens / over_s)
    judged = slo.judge(objectives, seen)
    for one in judged:
        print(f"{'met   ' if one.met else 'MISSED'} {tables.words_of(one)}")
    environment.process_exit_code = 0 if slo.met(judged) else 1


def seconds(rows: Iterator[Any]) -> Iterator[float]:
    """Each time in Locust's rows, rounded as Locust does it."""
    for row in rows:
        for milliseconds, count in row.response_times.items():
            yield from repeat(milliseconds / 1000, count)
