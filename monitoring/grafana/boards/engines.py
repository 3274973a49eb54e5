"""Engines & Cost: the life of each engine, and what its work and its waiting cost."""

from __future__ import annotations

from monitoring.grafana.boards.shared import engine_states
from monitoring.grafana.page import Board, Row, Section
from monitoring.grafana.panels import BLUE, GREEN, ORANGE, RED, YELLOW, Column, Query, course, figure, rows
from monitoring.grafana.queries import (
    ENGINE,
    GENERATION,
    KEY,
    MADE,
    MODEL,
    NOW,
    increase,
    none_is_zero,
    rate,
    series,
    share,
)

COST = "api_cost_dollars_total"
CAUSES = {"start": GREEN, "operator": BLUE, "crash": RED, "wedged": ORANGE}
KINDS = {"gpu": GREEN, "idle": ORANGE, "energy": BLUE}
UNPRICED = "no price"

ENGINES_MISSING = figure(
    "Engines missing",
    "Engines that should be ready and are not. Red: the timeline below says whether one "
    "loads, waits after a crash, or was given up on.",
    f"sum(1 - {series('api_engine_up', ENGINE)})",
    "none",
    {1: RED},
    texts={0: "none"},
)

CRASHES_AND_HANGS = figure(
    "Crashes and hangs",
    "Starts after a crash or a hang, over the shown time. Red: the engine's last lines are in /status and in the log.",
    increase("api_engine_starts_total", 'cause=~"crash|wedged"', ENGINE),
    "none",
    {0.5: YELLOW, 2.5: RED},
    spark=False,
    decimals=0,
)

COST_PER_MILLION_TOKENS = figure(
    "Cost per million tokens",
    "Everything that was spent over the shown time (work, idle engines, energy) for each "
    "million tokens made. It falls as slots fill.",
    f"1e6 * {share(increase(COST), increase('api_tokens_total', MADE))}",
    "currencyUSD",
    empty=UNPRICED,
    spark=False,
    decimals=2,
)

SPENT = figure(
    "Spent",
    "Dollars over the shown time: work, idle engines and energy together.",
    increase(COST),
    "currencyUSD",
    empty=UNPRICED,
    spark=False,
    decimals=2,
)

PAID_FOR_IDLING = figure(
    "Paid for idling",
    "Share of the money that went to engines with no slot held. Red: stop engines when idle, "
    "or put more work on fewer.",
    share(none_is_zero(increase(COST, 'kind="idle"')), increase(COST)),
    "percentunit",
    {0.5: YELLOW, 0.8: RED},
    empty=UNPRICED,
    spark=False,
    decimals=0,
    maximum=1,
)

SPENT_IN_AN_HOUR = figure(
    "Spent in an hour",
    "Dollars an hour, at the rate of the last 5 minutes.",
    f"3600 * {rate(COST, over=NOW)}",
    "currencyUSD",
    empty=UNPRICED,
    decimals=2,
)

STARTS_BY_CAUSE = course(
    "Starts by cause",
    "start and operator were meant; crash and wedged were not: their last lines are in "
    "/status. Several an hour are a crash loop.",
    [
        Query(
            increase("api_engine_starts_total", ENGINE, by="cause", over="$__rate_interval"),
            "{{cause}}",
        )
    ],
    "none",
    bars=True,
    stacked=True,
    colors=CAUSES,
    decimals=0,
)

TRIES_BY_OUTCOME = course(
    "Tries by outcome",
    "What became of each try at an engine. engine_failed: it broke before or in an answer; "
    "unreachable: nothing took the connection.",
    [
        Query(
            rate("api_engine_requests_total", ENGINE, by="engine, outcome"),
            "{{engine}} {{outcome}}",
        )
    ],
    "reqps",
    stacked=True,
)

SLOTS_HELD = course(
    "Slots held",
    "Slots held on each engine, and its slots (dashed). An engine at its slots while "
    "another has room: requests that weigh much, or engines of different size.",
    [
        Query(series("api_engine_active_requests", ENGINE), "{{engine}} · {{instance}}"),
        Query(f"max({series('api_engine_slots', ENGINE)})", "slots", limit=True),
    ],
    "none",
    decimals=0,
)

HOW_LONG_A_START_TAKES = course(
    "How long a start takes",
    "Each engine's last start, from its command to its first model listed. Twice as long "
    "as before: weights are no longer in the page cache, or are downloaded again.",
    [Query(series("api_engine_wake_seconds", ENGINE), "{{engine}} · {{instance}}")],
    "s",
)

TOKENS_MADE_BY_ENGINE = course(
    "Tokens made by engine",
    "Each vLLM's own count, as they are made. One far below the others at the same load is slower, or hangs.",
    [
        Query(
            rate("vllm:generation_tokens_total", ENGINE, by="engine"),
            "{{engine}}",
        )
    ],
    "short",
)

ASLEEP = course(
    "Asleep",
    "Engines that gave their GPU memory back (vLLM's sleep mode), by what they let go of. "
    "The first request wakes them.",
    [
        Query(
            f"sum by (sleep_state) ({series('vllm:engine_sleep_state', ENGINE)})",
            "{{sleep_state}}",
        )
    ],
    "none",
    stacked=True,
    colors={"awake": GREEN, "weights_offloaded": ORANGE, "discard_all": RED},
    decimals=0,
)

DOLLARS_AN_HOUR = course(
    "Dollars an hour",
    "gpu: time in which slots were held. idle: time in which none was. energy: what was "
    "drawn. Nothing here: set GPU_PRICE_PER_HOUR, ENERGY_PRICE_PER_KWH.",
    [Query(f"3600 * {rate(COST, by='kind')}", "{{kind}}")],
    "currencyUSD",
    stacked=True,
    colors=KINDS,
)

DOLLARS_PER_MILLION_TOKENS = course(
    "Dollars per million tokens",
    "All that is spent, for each million tokens made at that moment; and without the "
    "idling. The gap is what more work would save.",
    [
        Query(f"1e6 * {share(rate(COST), rate('api_tokens_total', MADE))}", "all", BLUE),
        Query(
            "1e6 * " + share(rate(COST, 'kind!="idle"'), rate("api_tokens_total", MADE)),
            "without idling",
            GREEN,
        ),
    ],
    "currencyUSD",
)

JOULES_PER_TOKEN = course(
    "Joules per token",
    "Energy of all GPUs for each token made, by the gateway's own readings. It falls as more run at once.",
    [
        Query(
            share(rate("gpu_energy_joules_total"), rate("api_tokens_total", MADE)),
            "all GPUs",
            ORANGE,
        )
    ],
    "joule",
)

KEYS = rows(
    "Keys",
    "What each key asked for, got and cost over the shown time; `none` is idling, which is nobody's. Sorted by cost.",
    [
        Column("Cost", increase(COST, MODEL, KEY, by="key"), "currencyUSD"),
        Column(
            "Requests",
            increase("api_requests_total", GENERATION, MODEL, KEY, by="key"),
            "short",
        ),
        Column(
            "Refused",
            increase("api_refusals_total", MODEL, KEY, by="key"),
            "short",
        ),
        Column(
            "Prompt tokens",
            increase("api_tokens_total", 'kind="prompt"', MODEL, KEY, by="key"),
            "short",
        ),
        Column("Tokens made", increase("api_tokens_total", MADE, MODEL, KEY, by="key"), "short"),
        Column(
            "Per million made",
            "1e6 * "
            + share(
                increase(COST, MODEL, KEY, by="key"),
                increase("api_tokens_total", MADE, MODEL, KEY, by="key"),
            ),
            "currencyUSD",
        ),
    ],
    "key",
    "Key",
    sort="Cost",
)

BOARD = Board(
    uid="headgate-engines",
    title="Headgate / Engines & Cost",
    description="The life of each engine, and what its work and its waiting cost: by key, and per million tokens.",
    variables=("engine", "model", "key"),
    shown="now-24h",
    sections=[
        Section(
            None,
            [
                Row(
                    4,
                    [
                        (4, ENGINES_MISSING),
                        (4, CRASHES_AND_HANGS),
                        (4, COST_PER_MILLION_TOKENS),
                        (4, SPENT),
                        (4, PAID_FOR_IDLING),
                        (4, SPENT_IN_AN_HOUR),
                    ],
                )
            ],
        ),
        Section(
            "Engines",
            [
                Row(6, [(16, engine_states()), (8, STARTS_BY_CAUSE)]),
                Row(8, [(8, TRIES_BY_OUTCOME), (8, SLOTS_HELD), (8, HOW_LONG_A_START_TAKES)]),
                Row(7, [(12, TOKENS_MADE_BY_ENGINE), (12, ASLEEP)]),
            ],
        ),
        Section(
            "Cost",
            [
                Row(8, [(8, DOLLARS_AN_HOUR), (8, DOLLARS_PER_MILLION_TOKENS), (8, JOULES_PER_TOKEN)]),
                Row(6, [(24, KEYS)]),
            ],
        ),
    ],
)
