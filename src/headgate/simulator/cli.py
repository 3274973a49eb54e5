"""The command line of the simulated engine."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from headgate.simulator import constants as numbers
from headgate.simulator import faults as failing

_DEFAULT = numbers.Constants()
_SIZES = numbers.Limits()


class _WithFaults(click.Command):
    """A command whose help ends with the kinds of faults."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Kinds of faults"):
            formatter.write_dl(list(failing.KINDS.items()))
        formatter.write_paragraph()
        formatter.write_text(
            "Each may have times (how many requests are hit: 1; null: all), after_requests (how many are let through "
            "first), path and text (only requests to this path, with this text in their body)."
        )


def _not_here(_: click.Context, __: click.Parameter, wanted: bool) -> None:
    if wanted:
        raise click.UsageError("It is `headgate simulate --fit RAW...` that fits.")


@click.command(cls=_WithFaults, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--model-name", multiple=True, help="Served name; may be given several times. [headgate-simulated]")
@click.option(
    "--constants", "file", type=click.Path(path_type=Path), help="TOML or JSON with any of the numbers below."
)
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), default=1.0, help="Divides every duration.")
@click.option("--load-s", type=float, help=f"Seconds of loading. [{_DEFAULT.load_s}]")
@click.option("--base-s", type=float, help=f"Seconds of a step by itself. [{_DEFAULT.base_s}]")
@click.option("--per-sequence-s", type=float, help=f"And for each sequence. [{_DEFAULT.per_sequence_s}]")
@click.option("--per-prefill-token-s", type=float, help=f"And prompt token. [{_DEFAULT.per_prefill_token_s}]")
@click.option("--per-context-token-s", type=float, help=f"And token attended to. [{_DEFAULT.per_context_token_s}]")
@click.option("--latency-s", type=float, help=f"Of a request, outside the engine. [{_DEFAULT.latency_s}]")
@click.option("--sleep-1-s", type=float, help=f"Falling asleep, level 1. [{_DEFAULT.sleep_1_s}]")
@click.option("--sleep-2-s", type=float, help=f"Level 2. [{_DEFAULT.sleep_2_s}]")
@click.option("--wake-1-s", type=float, help=f"Waking from level 1. [{_DEFAULT.wake_1_s}]")
@click.option("--wake-2-s", type=float, help=f"From level 2. [{_DEFAULT.wake_2_s}]")
@click.option("--max-num-seqs", type=int, help=f"Sequences in the batch. [{_SIZES.max_num_seqs}]")
@click.option("--max-num-batched-tokens", type=int, help=f"Tokens in a step. [{_SIZES.max_num_batched_tokens}]")
@click.option("--max-model-len", type=int, help=f"Prompt and answer, in tokens. [{_SIZES.max_model_len}]")
@click.option("--num-gpu-blocks", type=int, help=f"Blocks of KV cache. [{_SIZES.num_gpu_blocks}]")
@click.option("--block-size", type=int, help=f"Tokens in a block. [{_SIZES.block_size}]")
@click.option("--prefix-caching/--no-prefix-caching", default=None, help="Keep computed prompts. [on]")
@click.option("--batching", type=click.Choice(["continuous", "static"]), help="Who may join a batch. [continuous]")
@click.option("--draw-lengths", type=float, help="Mean tokens at which answers end by themselves.")
@click.option("--length-shape", type=click.Choice(["geometric", "lognormal"]), default="geometric", show_default=True)
@click.option("--stream-interval", default=1, show_default=True, type=click.IntRange(1), help="Tokens in an event.")
@click.option("--enable-sleep-mode", is_flag=True, help="Open /sleep, /wake_up and /is_sleeping.")
@click.option("--api-key", multiple=True, help="Guard /v1; also VLLM_API_KEY.")
@click.option("--shutdown-timeout", type=float, default=0.0, help="Seconds after SIGTERM for what runs. [0: abort]")
@click.option(
    "--fault", multiple=True, metavar="JSON", help='Such as {"kind":"cut","after_events":3}; again for more. See below.'
)
@click.option(
    "--fit",
    is_flag=True,
    expose_value=False,
    callback=_not_here,
    help="With RAW...: fit the times to a real engine's `headgate bench` results. --fit --help has its flags.",
)
def main(host: str, port: int, model_name: tuple[str, ...], file: Path | None, speed: float, **given: Any) -> None:
    """A simulated engine that speaks vLLM's HTTP and metrics. It needs no GPU and no model.

    POST /simulator/faults makes it fail at run time; GET /simulator/state says what it is doing. Exit status:
    0 after SIGTERM, 1 where the start failed, 2 for bad arguments.
    """
    try:
        times, sizes = numbers.load(file) if file else (_DEFAULT, {})
        times = replace(times, **_named(numbers.Constants, given)).sped_up(speed)
        sizes |= _named(numbers.Limits, given)
        if given["batching"] is not None:
            sizes["static_batching"] = given["batching"] == "static"
        limits = numbers.Limits(**sizes)
        for name, least in (("draw_lengths", 1), ("shutdown_timeout", 0)):
            if given[name] is not None and not least <= given[name] <= numbers.MOST:
                raise ValueError(f"{name} must be a number from {least} to {numbers.MOST:,}, not {given[name]}")
        faults = [fault for raw in given["fault"] for fault in failing.parse(raw)]
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    names = model_name or ("headgate-simulated",)
    keys = given["api_key"] or tuple(filter(None, [os.environ.get("VLLM_API_KEY")]))

    from headgate.simulator import server

    try:
        sock = server.take_port(host, port)
        server.load_model(times.load_s, names[0], faults)
    except server.StartFailed as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(1) from None

    from headgate.simulator.app import App
    from headgate.simulator.engine import Engine
    from headgate.simulator.metrics import Exposition, Statistics
    from headgate.simulator.planner import Planner
    from headgate.simulator.scheduler import Scheduler
    from headgate.simulator.service import Service

    engine = Engine(Scheduler(times, limits), Statistics(limits.max_model_len))
    service = Service(
        engine=engine,
        models=names,
        faults=failing.Faults([fault for fault in faults if not fault.at_start]),
        api_keys=keys,
        sleep_mode=given["enable_sleep_mode"],
        stream_interval=given["stream_interval"],
        planner=Planner(limits.max_model_len, limits.block_size, given["draw_lengths"], given["length_shape"]),
    )
    app = App(service, Exposition(engine, names[0]))
    server.Server(app, service, sock, given["shutdown_timeout"]).run_until_stopped()


def _named(kind: type[numbers.Constants | numbers.Limits], given: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given and are fields of this class."""
    return {f.name: given[f.name] for f in fields(kind) if given.get(f.name) is not None}
