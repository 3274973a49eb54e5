"""The report as one HTML file that opens with no network: styles and drawings are in it, and no script. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from headgate.workbench.report.chart import COLOURS
from headgate.workbench.report.figures import Drawing
from headgate.workbench.report.tables import Table

_LIGHT = ("#2460c2", "#c2500a", "#177a4b", "#8a3fb0", "#b3261e", "#00727f", "#7a6100", "#69727d")
_DARK = ("#77adff", "#ff9d57", "#55c78f", "#cf9bf0", "#ff837a", "#4cc5d6", "#dfc150", "#9aa6b2")
_FATES_LIGHT = {
    "good": "#2f8f5b",
    "late": "#b7a21b",
    **dict(
        zip(("refused0", "refused1", "refused2", "refused3"), ("#d9772b", "#8f6bc7", "#4f86c6", "#8a8f98"), strict=True)
    ),
    **dict(zip(("error0", "error1", "error2", "error3"), ("#c2382f", "#8c1d40", "#6b3d2e", "#3d3d3d"), strict=True)),
}
_FATES_DARK = {
    "good": "#3fa873",
    "late": "#c9b53a",
    **dict(
        zip(("refused0", "refused1", "refused2", "refused3"), ("#e08a45", "#a383d8", "#6b9bd6", "#9aa0a9"), strict=True)
    ),
    **dict(zip(("error0", "error1", "error2", "error3"), ("#e05a50", "#b8436c", "#9c6a55", "#77797c"), strict=True)),
}

_FEW = 4
"""More raw files than this are folded up."""

_STYLE = """
*{box-sizing:border-box}
body{margin:0 auto;padding:2.5rem 1.25rem 4rem;max-width:74rem;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .4rem}
h2{font-size:1.15rem;margin:0 0 .2rem}
p{margin:.25rem 0}
.dim,.source,figcaption p,section>p{color:var(--dim)}
figcaption p,section>p{font-size:.92rem}
section,figure{margin:1.4rem 0 0;padding:1.1rem 1.25rem;background:var(--card);border:1px solid var(--line);
border-radius:10px}
.source summary{cursor:pointer}
.source{font-size:.78rem;margin-top:.6rem;overflow-wrap:anywhere}
.key{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;list-style:none;margin:.6rem 0 .3rem;padding:0;font-size:.88rem}
.key li{display:flex;align-items:center;gap:.45rem}
.key i{width:.85rem;height:.85rem;border-radius:3px;flex:none}
.wide{overflow-x:auto;margin-top:.6rem}
table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.38rem .7rem .38rem 0;text-align:right;vertical-align:top;border-bottom:1px solid var(--line)}
th{color:var(--dim);font-weight:600;white-space:nowrap;vertical-align:bottom}
th.t,td.t{text-align:left}
tr:last-child td{border-bottom:0}
td small{display:block;color:var(--dim);white-space:nowrap}
td.bad{color:var(--bad);font-weight:600}
td.well{color:var(--well);font-weight:600}
.warn{border-left:4px solid var(--bad);padding-left:.8rem;margin:.8rem 0 0}
code{font:.85em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
svg{display:block;width:100%;max-width:60rem;height:auto;margin-top:.4rem;font:12px system-ui,Roboto,sans-serif}
svg text{fill:var(--dim)}
svg .name{fill:var(--ink)}
svg .on{fill:#fff;font-weight:600}
svg path{fill:none;stroke-width:2.2;stroke-linejoin:round}
svg path.thin{stroke-width:1.3}
.grid{stroke:var(--line)}
.range{stroke-width:1.5}
.bound{stroke:var(--ink);stroke-dasharray:3 3;opacity:.65}
@media print{body{max-width:none}section,figure{break-inside:avoid}}
"""


def html(
    title: str,
    says: Sequence[str],
    warnings: Sequence[str],
    tables: Sequence[Table],
    drawings: Sequence[Drawing],
    footnotes: Sequence[Table],
    commands: Sequence[str],
) -> str:
    """The page: tables, drawings, footnotes, and the commands that made the runs."""
    parts = [f"<h1>{escape(title)}</h1>", *(f'<p class="dim">{escape(line)}</p>' for line in says)]
    parts += [f'<p class="warn">{escape(warning)}</p>' for warning in warnings]
    parts += [*map(_table, tables), *map(_drawing, drawings), *map(_table, footnotes)]
    if commands:
        lines = "".join(f"<p><code>{escape(command)}</code></p>" for command in commands)
        parts.append(f"<section><h2>Commands</h2>{lines}</section>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{_colours()}{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _colours() -> str:
    light = "--page:#f6f7f9;--card:#fff;--ink:#1a1f26;--dim:#59636f;--line:#e2e6ea;--bad:#b3261e;--well:#177a4b"
    dark = "--page:#0f1317;--card:#171c22;--ink:#e6eaee;--dim:#9aa6b2;--line:#2a323a;--bad:#ff837a;--well:#55c78f"
    classes = [
        f".c{n}{{stroke:var(--c{n})}}.f{n}{{fill:var(--c{n})}}.b{n}{{background:var(--c{n})}}" for n in range(COLOURS)
    ]
    classes += [f".{name}{{fill:var(--{name});background:var(--{name})}}" for name in _FATES_LIGHT]
    return (
        f":root{{{light};{_set(_LIGHT, _FATES_LIGHT)}}}"
        f"@media(prefers-color-scheme:dark){{:root{{{dark};{_set(_DARK, _FATES_DARK)}}}}}{''.join(classes)}"
    )


def _set(colours: Sequence[str], fates: dict[str, str]) -> str:
    named = [f"--c{number}:{colour}" for number, colour in enumerate(colours)]
    return ";".join([*named, *(f"--{name}:{colour}" for name, colour in fates.items())])


def _drawing(one: Drawing) -> str:
    key = "".join(f'<li><i class="{kind}"></i>{escape(name)}</li>' for kind, name in one.key)
    return (
        f"<figure><figcaption><h2>{escape(one.title)}</h2><p>{escape(one.says)}</p></figcaption>"
        f'<ul class="key">{key}</ul>{one.svg}{_from(one.sources)}</figure>'
    )


def _table(one: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{_kind(cell, number < one.texts)}>{_cell(cell)}</{tag}>" for number, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in one.rows)
    says = f"<p>{escape(one.says)}</p>" if one.says else ""
    return (
        f'<section><h2>{escape(one.title)}</h2>{says}<div class="wide"><table><thead><tr>{row(one.header, "th")}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>{_from(one.sources)}</section>"
    )


def _kind(cell: str, text: bool) -> str:
    found = ["t"] if text else []
    if cell in ("MISSED", "no", "not measured") or cell.startswith("0 of "):
        found.append("bad")
    elif cell in ("met", "yes"):
        found.append("well")
    return f' class="{" ".join(found)}"' if found else ""


def _cell(text: str) -> str:
    """A range goes under its median."""
    middle, paren, rest = text.partition(" (")
    if paren and rest.endswith(")") and "–" in rest:
        return f"{escape(middle)}<small>{escape(rest[:-1])}</small>"
    return escape(text)


def _from(sources: Sequence[str]) -> str:
    files = list(dict.fromkeys(sources))
    if len(files) <= _FEW:
        return f'<p class="source">from {escape(named(files))}</p>' if files else ""
    return f'<details class="source"><summary>from {len(files)} raw files</summary>{escape(named(files))}</details>'


def named(sources: Sequence[str]) -> str:
    """Files by name, each once."""
    return ", ".join(dict.fromkeys(sources))
