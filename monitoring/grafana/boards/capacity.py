"""Capacity & Saturation: is there room, who waits how long, what would help."""

from __future__ import annotations

from monitoring.grafana.boards.shared import slots_and_line
from monitoring.grafana.page import Board, Row, Section
from monitoring.grafana.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    YELLOW,
    Query,
    course,
    figure,
    states,
    warmth,
)
from monitoring.grafana.queries import (
    CONTENDED,
    ENGINE,
    GENERATION,
    GRANTED,
    MODEL,
    NOW,
    SERVED,
    none_is_zero,
    quantile,
    rate,
    series,
    share,
    total,
)


def moved_by(why: str) -> str:
    """Narrows ``api_max_active_why``."""
    return f'why="{why}"'


TIMEOUT = f"max({series('api_queue_timeout_seconds')})"

SLOTS_IN_USE = figure(
    "Slots in use",
    "Share of all slots that are held. Red for long: callers wait or are refused. Add an engine, or "
    "see who asks for so much; a MAX_ACTIVE that was set by hand may be too low.",
    share(total("api_active_requests"), total("api_max_active")),
    "percentunit",
    {0.8: YELLOW, 0.95: RED},
    empty="no engine",
    decimals=0,
    maximum=1,
)

LINE_IN_USE = figure(
    "Line in use",
    "Share of QUEUE_MAX that waits, the fullest gateway's. Red: newcomers are about to be refused with queue_full.",
    f"max({series('api_queue_depth')} / ({series('api_queue_max')} > 0))",
    "percentunit",
    {0.5: YELLOW, 0.9: RED},
    empty="no line",
    decimals=0,
    maximum=1,
)

LONGEST_WAIT_NOW = figure(
    "Longest wait now",
    "How long the first in the line has waited, as a share of QUEUE_TIMEOUT_S. Red: it is "
    "about to be refused after its wait, the worst answer there is.",
    f"max({series('api_queue_oldest_wait_seconds')} / {series('api_queue_timeout_seconds')})",
    "percentunit",
    {0.5: YELLOW, 0.8: RED},
    decimals=0,
    maximum=1,
)

REFUSED_FOR_WANT_OF_ROOM = figure(
    "Refused for want of room",
    "Refusals a second with 429 or 503 because of load, over 5 minutes. Red is more than one a second.",
    none_is_zero(rate("api_refusals_total", CONTENDED, MODEL, over=NOW)),
    "reqps",
    {0.01: YELLOW, 1: RED},
    decimals=2,
)

KV_CACHE = figure(
    "KV cache",
    "The fullest engine's KV cache. Red: the engine is about to preempt; see Preempted beside it.",
    f"max({series('vllm:kv_cache_usage_perc', ENGINE, SERVED)})",
    "percentunit",
    {0.8: YELLOW, 0.95: RED},
    empty="not vLLM",
    decimals=0,
    maximum=1,
)

PREEMPTED = figure(
    "Preempted",
    "Sequences a minute that the engine threw out of its KV cache, to compute them again. Red: much work is done "
    "twice. MAX_ACTIVE=auto comes down by itself; lower one that was set by hand.",
    f"60 * {rate('vllm:num_preemptions_total', ENGINE, SERVED, over=NOW)}",
    "none",
    {0.1: YELLOW, 6: RED},
    empty="not vLLM",
    decimals=1,
)

WAIT_FOR_A_SLOT = course(
    "Wait for a slot",
    "How long those waited who got a slot; dashed, QUEUE_TIMEOUT_S. Near it: shorten "
    "QUEUE_MAX, a refusal at once is kinder than one after the wait.",
    [
        Query(quantile(0.5, "api_queue_wait_seconds", GRANTED), "half wait less"),
        Query(
            quantile(0.95, "api_queue_wait_seconds", GRANTED),
            "95 % wait less",
        ),
        Query(series("api_queue_oldest_wait_seconds"), "longest now · {{instance}}"),
        Query(TIMEOUT, "QUEUE_TIMEOUT_S", limit=True),
    ],
    "s",
)

ARRIVALS = course(
    "What becomes of those who come",
    "Generations a second that got a slot, that were refused, that left while waiting. "
    "Granted is what the engines can do; all together is what is asked.",
    [
        Query(rate("api_queue_wait_seconds_count", GRANTED), "granted", GREEN),
        Query(rate("api_refusals_total", CONTENDED), "refused", ORANGE),
        Query(rate("api_queue_wait_seconds_count", 'outcome="left"'), "left", "#8e8e8e"),
    ],
    "reqps",
    stacked=True,
)

REFUSALS_BY_REASON_AND_PRIORITY = course(
    "Refusals by reason and priority",
    "Only those for want of room. queue_full: the line is too short or the load too high. "
    "queue_timeout: the line is longer than it is patient. engine_unavailable: no engine.",
    [
        Query(
            rate("api_refusals_total", CONTENDED, MODEL, by="reason, priority"),
            "{{reason}}, {{priority}}",
        )
    ],
    "reqps",
    stacked=True,
)

THOSE_WHO_CAME_BACK = course(
    "Those who came back when they were told to",
    "Requests a second that had been refused and came at the time of their Retry-After. Refused again: the load stays "
    "for longer than could be foretold. Nothing here while there are refusals: clients don't obey it.",
    [Query(rate("api_returns_total", by="outcome"), "{{outcome}}")],
    "reqps",
    stacked=True,
    colors={"granted": GREEN, "refused": ORANGE},
)

WAITS_ALL_OF_THEM = warmth(
    "Waits, all of them",
    "Every wait in the line, however it ended; darker is more. Two bands, one at 0 and one "
    "high up, mean that some callers always wait while others never do.",
    rate("api_queue_wait_seconds_bucket", by="le"),
    "s",
)

RUNNING_AND_WAITING_IN_THE_ENGINE = course(
    "Running and waiting in the engine",
    "Sequences in the engine's batch, and in its own queue. The gate keeps that queue "
    "empty; if it isn't for long, a MAX_ACTIVE set by hand is above what the engine or its KV cache holds.",
    [
        Query(
            total("vllm:num_requests_running", ENGINE, SERVED, by="engine"),
            "{{engine}} runs",
        ),
        Query(
            total("vllm:num_requests_waiting", ENGINE, SERVED, by="engine"),
            "{{engine}} keeps waiting",
        ),
    ],
    "none",
    decimals=0,
)

KV_CACHE_OVER_TIME = course(
    "KV cache",
    "Share of each engine's KV cache in use. At 1 sequences are preempted. Well below the line at full slots, "
    "more could run at once, if the objectives allow it.",
    [
        Query(
            f"max by (instance, engine) ({series('vllm:kv_cache_usage_perc', ENGINE, SERVED)})",
            "{{engine}} · {{instance}}",
        )
    ],
    "percentunit",
    {0.95: RED},
    maximum=1,
)

PREEMPTIONS = course(
    "Preemptions",
    "Sequences a second that were thrown out and computed again: work done twice. A few while "
    "MAX_ACTIVE=auto finds its way are usual; lasting ones ask for a lower number or a larger KV cache.",
    [Query(rate("vllm:num_preemptions_total", ENGINE, SERVED, by="engine"), "{{engine}}")],
    "cps",
    {0.1: RED},
    soft_maximum=0.2,
)

TOKENS_A_SECOND_FOR_EACH_SLOT_IN_USE = course(
    "Tokens a second for each slot in use",
    "Each slot's speed. It falls as more run at once: more slots pay while it falls more slowly "
    "than their number grows.",
    [
        Query(
            share(
                rate("vllm:generation_tokens_total", ENGINE, SERVED, by="engine"),
                total("vllm:num_requests_running", ENGINE, SERVED, by="engine"),
            ),
            "{{engine}}",
        )
    ],
    "short",
)

TOKENS_IN_A_STEP = course(
    "Tokens in a step",
    "How many tokens an engine's step computes, on average. Near max-num-batched-tokens "
    "long prompts fill the steps, and every stream stutters.",
    [
        Query(
            share(
                rate("vllm:iteration_tokens_total_sum", ENGINE, SERVED, by="engine"),
                rate("vllm:iteration_tokens_total_count", ENGINE, SERVED, by="engine"),
            ),
            "{{engine}}",
        )
    ],
    "short",
)

SEQUENCES_IN_A_CALL = course(
    "Sequences in a call",
    "How many sequences (n × prompts) one call to an engine makes: each takes a slot of "
    "its own, and the call waits until all are free.",
    [
        Query(
            share(rate("api_batch_size_sum"), rate("api_batch_size_count")),
            "on average",
            BLUE,
        ),
        Query(quantile(0.99, "api_batch_size"), "99 % are smaller", ORANGE),
    ],
    "none",
    minimum=0,
    decimals=1,
)

SLOTS_OF_EACH_ENGINE = course(
    "Slots of each engine",
    "As many as MAX_ACTIVE says, or as MAX_ACTIVE=auto has found; 0 while the engine isn't ready. What moved them last "
    "is beside it. Held back: came free in a bunch, and given out one by one while somebody waits.",
    [
        Query(series("api_engine_slots", ENGINE), "{{engine}} · {{instance}}"),
        Query(series("api_held_back_slots", ENGINE), "{{engine}} held back · {{instance}}"),
    ],
    "none",
    decimals=0,
)

WHYS = {
    "start": GREY,
    "room": GREEN,
    "itl": YELLOW,
    "ttft": ORANGE,
    "latency": ORANGE,
    "in_vain": BLUE,
    "engine_line": PURPLE,
    "preemptions": RED,
}
WHAT_MOVED_THE_SLOTS = states(
    "What moved the slots",
    "With MAX_ACTIVE=auto. room: there was some. itl, ttft, latency, preemptions, engine_line: the engine showed "
    "that it had too much. in_vain: fewer made nothing better, so they are back. Red for long: its KV cache is small "
    "for such prompts and answers.",
    [
        Query(
            " or ".join(
                f"{number} * max by (instance, engine) ({series('api_max_active_why', moved_by(why), ENGINE)} == 1)"
                for number, why in enumerate(WHYS, 1)
            ),
            "{{engine}} · {{instance}}",
        )
    ],
    {number: (why, color) for number, (why, color) in enumerate(WHYS.items(), 1)},
)

TOKENS_IN_AN_EVENT = course(
    "Tokens in an event",
    "As many as each engine is asked to put into one. Over 1 while requests wait and its front can't keep up: then "
    "fewer, larger events serve more of them. For long: give vLLM's API server a core, or have more of them "
    "(--api-server-count).",
    [Query(series("api_stream_interval", ENGINE), "{{engine}} · {{instance}}")],
    "none",
    minimum=0,
    decimals=0,
)

GENERATIONS_ASKED_FOR_BY_KEY = course(
    "Generations asked for by key",
    "Who fills the line. One key far above the others while there are refusals: give it a limit of its own.",
    [Query(rate("api_requests_total", GENERATION, MODEL, by="key"), "{{key}}")],
    "reqps",
    stacked=True,
)

BOARD = Board(
    uid="headgate-capacity",
    title="Headgate / Capacity & Saturation",
    description="Is there room, how long do callers wait, and what would help: slots, line, engines.",
    variables=("engine", "model"),
    sections=[
        Section(
            None,
            [
                Row(
                    4,
                    [
                        (4, SLOTS_IN_USE),
                        (4, LINE_IN_USE),
                        (4, LONGEST_WAIT_NOW),
                        (4, REFUSED_FOR_WANT_OF_ROOM),
                        (4, KV_CACHE),
                        (4, PREEMPTED),
                    ],
                )
            ],
        ),
        Section(
            "The gate",
            [
                Row(8, [(12, slots_and_line()), (12, WAIT_FOR_A_SLOT)]),
                Row(
                    8,
                    [
                        (6, ARRIVALS),
                        (6, REFUSALS_BY_REASON_AND_PRIORITY),
                        (6, THOSE_WHO_CAME_BACK),
                        (6, WAITS_ALL_OF_THEM),
                    ],
                ),
            ],
        ),
        Section(
            "The engines",
            [
                Row(8, [(8, RUNNING_AND_WAITING_IN_THE_ENGINE), (8, KV_CACHE_OVER_TIME), (8, PREEMPTIONS)]),
                Row(8, [(8, TOKENS_A_SECOND_FOR_EACH_SLOT_IN_USE), (8, TOKENS_IN_A_STEP), (8, SEQUENCES_IN_A_CALL)]),
                Row(
                    7,
                    [
                        (6, SLOTS_OF_EACH_ENGINE),
                        (6, WHAT_MOVED_THE_SLOTS),
                        (6, TOKENS_IN_AN_EVENT),
                        (6, GENERATIONS_ASKED_FOR_BY_KEY),
                    ],
                ),
            ],
        ),
    ],
)
