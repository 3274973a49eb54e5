"""``headgate simulate --fit`` on the command line: raw files in, a file of constants out.

Where a load was measured several times, its quickest run counts: whatever else a machine does makes an engine slower,
and nothing makes it quicker. Exit status: 0, or 2 where the files can't be fitted.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from math import log10
from pathlib import Path
from typing import Any

import click
import msgspec

from headgate.simulator.constants import Constants, Limits
from headgate.workbench.bench import raw
from headgate.workbench.bench.raw import BadFile, Run
from headgate.workbench.fitting.play import Figures, Unfit, load_of, seen
from headgate.workbench.fitting.search import FITTED, Found, Sample, search
from headgate.workbench.report.run import raw_files

_SIZES = Limits()
_SHOWN = {
    "tokens_per_s": "tokens/s",
    "ttft_p50": "TTFT p50",
    "ttft_p95": "TTFT p95",
    "gap_p50": "inter-token p50",
    "gap_p95": "inter-token p95",
}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("files", nargs=-1, required=True, metavar="RAW...", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out",
    default="constants.toml",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
)
@click.option("--max-num-seqs", default=_SIZES.max_num_seqs, show_default=True, help="The engine's own.")
@click.option("--max-num-batched-tokens", default=_SIZES.max_num_batched_tokens, show_default=True, help="Its own.")
@click.option("--max-model-len", default=_SIZES.max_model_len, show_default=True, help="Its own.")
@click.option("--num-gpu-blocks", default=_SIZES.num_gpu_blocks, show_default=True, help="Its KV cache, in blocks.")
@click.option("--block-size", default=_SIZES.block_size, show_default=True, help="Tokens in a block.")
def fit(files: tuple[Path, ...], out: Path, **sizes: Any) -> None:
    """Fit the simulated engine's times to a real engine.

    RAW are results of `headgate bench` against the engine itself, or folders of them: several numbers of users (1, 4,
    16) and two prompt lengths (--input 100 and 800). Writes a file for `headgate simulate --constants FILE` and says
    how well it plays again what was measured.
    """
    try:
        limits = Limits(**sizes)
        runs = [raw.read(path) for path in raw_files(files)]
        one_engine(runs)
        samples = chosen(runs)
        fits(samples, limits)
        found = search(samples, limits)
    except (BadFile, Unfit, ValueError) as error:
        click.echo(f"headgate simulate --fit: {error}", err=True)
        raise SystemExit(2) from None
    click.echo(said(found, samples))
    try:
        out.write_text(written(found, limits, samples), "utf-8")
    except OSError as error:
        click.echo(f"headgate simulate --fit: {out} can't be written: {error.strerror}", err=True)
        raise SystemExit(2) from None
    click.echo(f"\nheadgate simulate --constants {out}")


def one_engine(runs: list[Run]) -> None:
    """Of one load the quickest run counts, which must not be another engine's. Raises Unfit."""
    asked = {
        f"{t.model} ({t.server})" if t.server else t.model: run.source for run in runs for t in [run.header.target]
    }
    if len(asked) > 1:
        (one, file), (other, another), *_ = asked.items()
        raise Unfit(f"two engines: {file} is of {one}, {another} of {other}")


def fits(samples: list[Sample], limits: Limits) -> None:
    """Whether the limits allow what was asked. Raises Unfit."""
    for sample in samples:
        longest = max(prompt + answer for _, prompt, answer in sample.load.asks)
        if longest > limits.max_model_len:
            raise Unfit(f"{sample.name}: {longest} tokens in one request: give the engine's own --max-model-len")


def chosen(runs: list[Run]) -> list[Sample]:
    """A sample for each load that was measured: its quickest run."""
    by_load: dict[bytes, tuple[Run, Figures]] = {}
    for run in runs:
        load_of(run)  # says what is wrong with it before anything is compared
        figures = seen(run)
        key = msgspec.json.encode(msgspec.structs.replace(run.header.plan, seed=0, salt=""))
        if key not in by_load or figures.tokens_per_s > by_load[key][1].tokens_per_s:
            by_load[key] = (run, figures)
    return [Sample(run.source, load_of(run), figures) for run, figures in by_load.values()]


def written(found: Found, limits: Limits, samples: list[Sample]) -> str:
    """The file of constants."""
    constants = asdict(found.constants)
    lines = [f"# Fitted by `headgate simulate --fit` to {', '.join(sample.name for sample in samples)}."]
    lines += [f"{name} = {short(constants[name])}" for name in FITTED]
    sizes = {f.name: getattr(limits, f.name) for f in fields(Limits) if f.type == "int"}
    return "\n".join([*lines, *(f"{name} = {value}" for name, value in sizes.items())]) + "\n"


def said(found: Found, samples: list[Sample]) -> str:
    """What was found, and how far the play is from what was measured."""
    lines = []
    default = Constants()
    for name in FITTED:
        note = "  the files don't tell it: vary users and prompts" if name in found.untold else ""
        value = short(getattr(found.constants, name))
        lines.append(f"{name:<20} {value:>14}  (default {getattr(default, name):g}){note}")
    width = max(len(sample.name) for sample in samples)
    lines += ["", "played again, and how far off".ljust(width) + "".join(f"{name:>17}" for name in _SHOWN.values())]
    for sample, played in zip(samples, found.played, strict=True):
        off = played.errors(sample.real)
        lines.append(sample.name.ljust(max(width, 29)) + "".join(f"{off[name]:>+17.0%}" for name in _SHOWN))
    return "\n".join(lines)


def short(value: float) -> str:
    """Four figures, written out."""
    if not value:
        return "0.0"
    if value < 1:
        return f"{value:.{4 - int(log10(value))}f}".rstrip("0").rstrip(".")
    return f"{value:.4g}"
