"""LLM Performance: what callers feel, token by token, and where in the engine the time goes."""

from __future__ import annotations

from monitoring.grafana.boards.shared import limit, results, tokens_per_second
from monitoring.grafana.page import Board, Row, Section
from monitoring.grafana.panels import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    YELLOW,
    Column,
    Query,
    course,
    figure,
    rows,
    warmth,
)
from monitoring.grafana.queries import (
    ENGINE,
    GENERATION,
    GRANTED,
    MADE,
    MODEL,
    NOW,
    SERVED,
    SHOWN,
    burn,
    mean,
    none_is_zero,
    objective,
    quantile,
    rate,
    share,
    within_objectives,
)

TTFT, GAP, LATENCY = (
    "api_time_to_first_token_seconds",
    "api_inter_token_latency_seconds",
    "api_request_latency_seconds",
)


def quantiles(histogram: str, *where: str) -> list[Query]:
    """Half, 95 % and 99 %; examples of requests with the first."""
    return [
        Query(quantile(0.5, histogram, *where), "half take less", GREEN, exemplars=True),
        Query(quantile(0.95, histogram, *where), "95 % take less", YELLOW),
        Query(quantile(0.99, histogram, *where), "99 % take less", ORANGE),
    ]


def spent(histogram: str) -> str:
    """The engine's mean time for a request in one of its stages."""
    return mean(f"vllm:{histogram}", ENGINE, SERVED)


FIRST_TOKEN = figure(
    "First token, % of objective",
    "95 of 100 streams got their first token within this share of the objective, the line included. Red: it is missed; "
    "see whether the line or the engine takes the time.",
    f"{quantile(0.95, TTFT, MODEL, over=NOW)} / scalar({objective('ttft')})",
    "percentunit",
    {0.8: YELLOW, 1: RED},
    empty="no streams",
    decimals=0,
)

BETWEEN = figure(
    "Token gaps, % of objective",
    "95 of 100 gaps between tokens were shorter than this share of the objective. Red: too many run at once, or long "
    "prompts are squeezed in.",
    f"{quantile(0.95, GAP, MODEL, over=NOW)} / scalar({objective('itl')})",
    "percentunit",
    {0.8: YELLOW, 1: RED},
    empty="no streams",
    decimals=0,
)

WITHIN_OBJECTIVES = figure(
    "Within objectives",
    "Share of answers in 5 minutes that met every objective. Red: see which was missed below, in Answers by result.",
    within_objectives(NOW, MODEL),
    "percentunit",
    {0: RED, 0.95: YELLOW, 0.99: "green"},
    base=RED,
    empty="no traffic",
    decimals=1,
    maximum=1,
)

GOODPUT = figure(
    "Goodput",
    "Answers a second that met every objective: the number to drive up when tuning.",
    none_is_zero(rate("api_slo_requests_total", 'result="met"', MODEL, over=NOW)),
    "reqps",
    decimals=2,
)

TOKENS_MADE_PER_SECOND = figure(
    "Tokens made per second",
    "Tokens made for all callers together, over 5 minutes; booked when an answer ends.",
    none_is_zero(rate("api_tokens_total", MADE, MODEL, over=NOW)),
    "short",
    decimals=0,
)

PROMPT_FOUND_IN_CACHE = figure(
    "Prompt found in cache",
    "Share of prompt tokens that the engine had computed before (prefix caching). Low with "
    "chats that repeat their history: prefix caching is off, or the KV cache too small.",
    share(
        rate("vllm:prefix_cache_hits_total", ENGINE, SERVED, over=NOW),
        rate("vllm:prefix_cache_queries_total", ENGINE, SERVED, over=NOW),
    ),
    "percentunit",
    empty="not vLLM",
    decimals=0,
    maximum=1,
)

TIME_TO_FIRST_TOKEN = course(
    "Time to first token",
    "From arrival to the first event of a stream, the line included; dashed, SLO_TTFT_S. "
    "Compare with Where a request's time goes: line or prefill.",
    [*quantiles(TTFT, MODEL), limit("ttft")],
    "s",
)

BETWEEN_TOKENS = course(
    "Between tokens",
    "Gaps between two events of a stream; dashed, SLO_ITL_MS. Above it: too many run at "
    "once (lower a MAX_ACTIVE set by hand), or long prompts squeeze in (max-num-batched-tokens).",
    [*quantiles(GAP, MODEL), limit("itl")],
    "s",
)

WHOLE_ANSWERS = course(
    "Whole answers",
    "From arrival to the last byte; dashed, SLO_LATENCY_S where it is set. Long answers "
    "take long: judge it beside tokens per answer.",
    [*quantiles(LATENCY, MODEL), limit("latency")],
    "s",
)

BUDGET_BURN = course(
    "Budget burn",
    "How fast the error budget goes, over three windows. Somebody is paged when the hour "
    "is above 14.4 or six hours above 6 (Google's SRE workbook, chapter 5).",
    [
        Query(burn("5m", MODEL), "5 minutes", "#8e8e8e"),
        Query(burn("1h", MODEL), "1 hour", BLUE),
        Query(burn("6h", MODEL), "6 hours", PURPLE),
    ],
    "none",
    {1: YELLOW, 6: ORANGE, 14.4: RED},
    soft_maximum=2,
    decimals=1,
)

FIRST_TOKENS_ALL_OF_THEM = warmth(
    "First tokens, all of them",
    "Every time to first token; darker is more. A second band high up is a group of "
    "callers that always waits: look at their keys, or at long prompts.",
    rate(f"{TTFT}_bucket", MODEL, by="le"),
    "s",
)

MODELS = rows(
    "Models",
    "Each model over the shown time. Red marks a model whose answers miss the objectives.",
    [
        Column(
            "Requests/s",
            rate("api_requests_total", GENERATION, MODEL, by="model", over=SHOWN),
            "reqps",
        ),
        Column(
            "Within objectives",
            within_objectives(SHOWN, MODEL, by="model"),
            "percentunit",
            {0: RED, 0.95: YELLOW, 0.99: GREEN},
        ),
        Column("First token, 95 %", quantile(0.95, TTFT, MODEL, by="model", over=SHOWN), "s"),
        Column("Between tokens, 95 %", quantile(0.95, GAP, MODEL, by="model", over=SHOWN), "s"),
        Column(
            "Whole answer, 95 %",
            quantile(0.95, LATENCY, MODEL, by="model", over=SHOWN),
            "s",
        ),
        Column(
            "Tokens made/s",
            rate("api_tokens_total", MADE, MODEL, by="model", over=SHOWN),
            "short",
        ),
    ],
    "model",
    "Model",
    sort="Requests/s",
)

STAGES = course(
    "Where a request's time goes",
    "A request's mean time: in our line, in the engine's queue, reading the prompt, making "
    "tokens. The widest band is what to work on.",
    [
        Query(mean("api_queue_wait_seconds", GRANTED), "our line", ORANGE),
        Query(spent("request_queue_time_seconds"), "engine's queue", RED),
        Query(spent("request_prefill_time_seconds"), "prefill", PURPLE),
        Query(spent("request_decode_time_seconds"), "decode", BLUE),
    ],
    "s",
    stacked=True,
)

WHAT_THE_GATEWAY_ADDS = course(
    "What the gateway adds",
    "Mean time to first token as callers see it, less the line and less the engine's own: "
    "network, parsing, writing. Tens of milliseconds: the gateway lacks CPU.",
    [
        Query(
            f"clamp_min({mean(TTFT, MODEL)} - "
            f"{none_is_zero(mean('api_queue_wait_seconds', GRANTED))} - "
            f"{mean('vllm:time_to_first_token_seconds', ENGINE, SERVED)}, 0)",
            "at the first token",
            PURPLE,
        )
    ],
    "s",
    {0.05: RED},
    soft_maximum=0.01,
)

LENGTH_OF_PROMPTS_AND_ANSWERS = course(
    "Length of prompts and answers",
    "Tokens of a request, half of them and 95 %. What the KV cache must hold and how long "
    "slots are held follow from these.",
    [
        Query(
            quantile(0.5, "vllm:request_prompt_tokens", ENGINE, SERVED),
            "half of the prompts",
            BLUE,
        ),
        Query(
            quantile(0.95, "vllm:request_prompt_tokens", ENGINE, SERVED),
            "95 % of the prompts",
            PURPLE,
        ),
        Query(
            quantile(0.5, "vllm:request_generation_tokens", ENGINE, SERVED),
            "half of the answers",
            GREEN,
        ),
        Query(
            quantile(0.95, "vllm:request_generation_tokens", ENGINE, SERVED),
            "95 % of the answers",
            YELLOW,
        ),
    ],
    "short",
)

SEQUENCES_END = course(
    "How the engine's sequences end",
    "stop: it was done. length: max_tokens or the context ended it. abort: the client "
    "left, or the engine was stopped. error: see the engine's log.",
    [
        Query(
            rate("vllm:request_success_total", ENGINE, SERVED, by="finished_reason"),
            "{{finished_reason}}",
        )
    ],
    "cps",
    stacked=True,
    colors={"stop": GREEN, "length": BLUE, "abort": "#8e8e8e", "error": RED},
)

PROMPT_FOUND_IN_CACHE_OVER_TIME = course(
    "Prompt found in cache",
    "Share of prompt tokens found in the prefix cache, each engine's. A drop at the same "
    "load: conversations move between engines, or the KV cache is full.",
    [
        Query(
            share(
                rate("vllm:prefix_cache_hits_total", ENGINE, SERVED, by="engine"),
                rate("vllm:prefix_cache_queries_total", ENGINE, SERVED, by="engine"),
            ),
            "{{engine}}",
        )
    ],
    "percentunit",
    maximum=1,
)

BOARD = Board(
    uid="headgate-llm",
    title="Headgate / LLM Performance",
    description="What callers feel: first token, steady tokens, whole answers; and where in the engine the time goes.",
    variables=("model", "engine"),
    sections=[
        Section(
            None,
            [
                Row(
                    4,
                    [
                        (4, FIRST_TOKEN),
                        (4, BETWEEN),
                        (4, WITHIN_OBJECTIVES),
                        (4, GOODPUT),
                        (4, TOKENS_MADE_PER_SECOND),
                        (4, PROMPT_FOUND_IN_CACHE),
                    ],
                )
            ],
        ),
        Section(
            "What callers feel",
            [
                Row(8, [(8, TIME_TO_FIRST_TOKEN), (8, BETWEEN_TOKENS), (8, WHOLE_ANSWERS)]),
                Row(8, [(8, results()), (8, BUDGET_BURN), (8, FIRST_TOKENS_ALL_OF_THEM)]),
                Row(5, [(24, MODELS)]),
            ],
        ),
        Section(
            "Inside the engine",
            [
                Row(8, [(8, STAGES), (8, WHAT_THE_GATEWAY_ADDS), (8, tokens_per_second())]),
                Row(
                    8,
                    [
                        (8, LENGTH_OF_PROMPTS_AND_ANSWERS),
                        (8, SEQUENCES_END),
                        (8, PROMPT_FOUND_IN_CACHE_OVER_TIME),
                    ],
                ),
            ],
        ),
    ],
)
