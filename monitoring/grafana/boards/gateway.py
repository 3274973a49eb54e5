"""Gateway: what comes in and goes out, and how the gateway's own process is."""

from __future__ import annotations

from monitoring.grafana.boards.shared import cpu, limit, loop_lag, memory
from monitoring.grafana.page import Board, Row, Section
from monitoring.grafana.panels import BLUE, ORANGE, RED, YELLOW, Query, course, figure
from monitoring.grafana.queries import (
    GENERATION,
    KEY,
    MODEL,
    OWN,
    STEP,
    none_is_zero,
    quantile,
    rate,
    series,
    share,
)

VERSION = figure(
    "Version",
    "The version that runs; two at once while a new one is being rolled out.",
    f"count by (version) ({series('api_build_info')})",
    "none",
    legend="{{version}}",
    spark=False,
)

UP_FOR = figure(
    "Up for",
    "Time since the gateway's process started, the youngest's. Yellow: it has just "
    "started; if nobody did that, see why in its log.",
    f"min(time() - {series('process_start_time_seconds', OWN)})",
    "s",
    {0: YELLOW, 600: "green"},
    base=YELLOW,
    spark=False,
)

CORES = figure(
    "CPU, cores",
    "Cores in use by the busiest gateway. One event loop can't use more than 1: at red it is the bottleneck.",
    f"max(rate({series('process_cpu_seconds_total', OWN)}[{STEP}]))",
    "short",
    {0.7: YELLOW, 0.9: RED},
    decimals=2,
)

MEMORY = figure(
    "Memory",
    "Resident memory of the largest gateway process. Yellow and red are far above what a "
    "full line of small bodies needs: see who sends large ones.",
    f"max({series('process_resident_memory_bytes', OWN)})",
    "bytes",
    {1 << 30: YELLOW, 2 << 30: RED},
)

EVENT_LOOP_LAG = figure(
    "Event-loop lag",
    "How late the worst event loop was in the last 15 s. Red: every stream stutters by as "
    "much; the gateway lacks CPU or something blocks it.",
    f"max({series('api_event_loop_lag_seconds')})",
    "s",
    {0.05: YELLOW, 0.25: RED},
)

OPEN_FILES = figure(
    "Open files",
    "Share of the files that the process may have open; a stream takes two. Red: raise "
    "LimitNOFILE, or new connections will be refused.",
    f"max({series('process_open_fds', OWN)} / {series('process_max_fds', OWN)})",
    "percentunit",
    {0.6: YELLOW, 0.8: RED},
    decimals=1,
    maximum=1,
)

GENERATIONS_BY_END = course(
    "Generations by end",
    "Generations by how they ended: ok, client_left, or the reason of a refusal or failure "
    "(docs/api.md). engine_failed and request_timeout are ours to mend.",
    [Query(rate("api_requests_total", GENERATION, MODEL, KEY, by="reason"), "{{reason}}")],
    "reqps",
    stacked=True,
    colors={"ok": "green", "client_left": "#8e8e8e", "engine_failed": RED},
)

GENERATIONS_BY_KEY = course(
    "Generations by key",
    "Who asks. One key far above the others, while there are refusals, is where to begin.",
    [Query(rate("api_requests_total", GENERATION, MODEL, KEY, by="key"), "{{key}}")],
    "reqps",
    stacked=True,
)

LATENCY = course(
    "Latency",
    "From arrival to the end of the answer, the line included, refusals not; dashed, the "
    "objective where SLO_LATENCY_S is set. Long answers take long: judge it beside TTFT.",
    [
        Query(
            quantile(0.5, "api_request_latency_seconds", MODEL),
            "half take less",
            exemplars=True,
        ),
        Query(quantile(0.95, "api_request_latency_seconds", MODEL), "95 % take less"),
        Query(quantile(0.99, "api_request_latency_seconds", MODEL), "99 % take less"),
        limit("latency"),
    ],
    "s",
)

REFUSALS_BY_REASON = course(
    "Refusals by reason",
    "What the gateway refuses, with the caller's own faults (400, 401, 404, 413) among it. "
    "Many unauthorized: a client has lost its key, or somebody tries keys.",
    [Query(rate("api_refusals_total", MODEL, KEY, by="reason"), "{{reason}}")],
    "reqps",
    stacked=True,
)

CLIENTS_THAT_LEAVE = course(
    "Clients that leave",
    "Clients that closed their connection, by how far their request was. Many queued: "
    "their timeout is shorter than the line; many streaming is a Stop button.",
    [Query(rate("api_cancelled_total", by="stage"), "{{stage}}")],
    "reqps",
    stacked=True,
    colors={"queued": ORANGE, "streaming": BLUE},
)

TRIES_AT_ENGINES = course(
    "Tries at engines",
    "What became of each try at an engine; a request may be tried twice. engine_failed or "
    "unreachable: see Engines & Cost.",
    [Query(rate("api_engine_requests_total", by="outcome"), "{{outcome}}")],
    "reqps",
    stacked=True,
    colors={
        "ok": "green",
        "client_left": "#8e8e8e",
        "engine_failed": RED,
        "unreachable": ORANGE,
    },
)

OTHER_ROUTES = course(
    "Other routes",
    "Health checks, scrapes, models, the page. A route that is asked hundreds of times a "
    "second takes CPU from streams.",
    [
        Query(
            rate("api_requests_total", GENERATION.replace("=~", "!~"), by="route"),
            "{{route}}",
        )
    ],
    "reqps",
    stacked=True,
)

CPU_PER_EVENT = course(
    "CPU per event",
    "CPU time of the gateway for each event that it passes on; all else it does is in it, "
    "so it is only telling under load. docs/performance.md has what it should be.",
    [
        Query(
            share(
                rate("process_cpu_seconds_total", OWN),
                none_is_zero(rate("api_inter_token_latency_seconds_count")),
            ),
            "all gateways",
        )
    ],
    "s",
    log=True,
    minimum=None,
)

OPEN_FILES_OVER_TIME = course(
    "Open files",
    "Files and sockets open, and the limit (dashed). Streams hold two each. Near the limit: raise LimitNOFILE.",
    [
        Query(series("process_open_fds", OWN), "{{instance}}"),
        Query(f"min({series('process_max_fds', OWN)})", "limit", limit=True),
    ],
    "short",
    log=True,
    minimum=1,
)

SCRAPE_TIME = course(
    "Scrape time",
    "How long Prometheus waits for the gateway's metrics. It answers between tokens, so a "
    "rise says that its event loop is late, or that there are very many series.",
    [Query(series("scrape_duration_seconds", OWN), "{{instance}}")],
    "s",
    {0.5: YELLOW, 2: RED},
    soft_maximum=0.1,
)

BOARD = Board(
    uid="headgate-gateway",
    title="Headgate / Gateway",
    description="What comes in and goes out, and the gateway's own process: CPU, memory, event loop, files.",
    variables=("model", "key"),
    sections=[
        Section(
            None, [Row(4, [(4, VERSION), (4, UP_FOR), (4, CORES), (4, MEMORY), (4, EVENT_LOOP_LAG), (4, OPEN_FILES)])]
        ),
        Section(
            "Requests",
            [
                Row(8, [(12, GENERATIONS_BY_END), (12, GENERATIONS_BY_KEY)]),
                Row(8, [(12, LATENCY), (12, REFUSALS_BY_REASON)]),
                Row(7, [(8, CLIENTS_THAT_LEAVE), (8, TRIES_AT_ENGINES), (8, OTHER_ROUTES)]),
            ],
        ),
        Section(
            "Its own process",
            [
                Row(7, [(8, cpu()), (8, memory()), (8, loop_lag())]),
                Row(7, [(8, CPU_PER_EVENT), (8, OPEN_FILES_OVER_TIME), (8, SCRAPE_TIME)]),
            ],
        ),
    ],
)
