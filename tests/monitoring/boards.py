"""The committed dashboards as a test reads them: panels, queries, and variables put in as Grafana does it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "monitoring" / "grafana" / "dashboards"
NAMES = ("overview", "gateway", "capacity", "llm", "infrastructure", "engines")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """One expression of a dashboard.

    Args:
        panel: the panel's title, or what else asks.
        named_by: the labels that its series are named by.
        at_end: only its value at the end is asked for.
    """

    board: str
    panel: str
    ref: str
    expr: str
    named_by: tuple[str, ...] = ()
    at_end: bool = False

    def __str__(self) -> str:
        return f"{self.board}-{self.panel}-{self.ref}"


def board(name: str) -> Json:
    """A committed dashboard."""
    found: Json = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def panels(of: Json) -> list[Json]:
    """Its panels, without the headings."""
    return [panel for panel in of["panels"] if panel["type"] != "row"]


def queries() -> Iterator[Asked]:
    """Every expression of every panel and annotation."""
    for name in NAMES:
        read = board(name)
        for panel in panels(read):
            for target in panel["targets"]:
                labels = _labels(target.get("legendFormat", ""))
                yield Asked(name, panel["title"], target["refId"], target["expr"], labels, target["instant"])
        for annotation in read["annotations"]["list"]:
            labels = _labels(annotation["titleFormat"] + annotation["textFormat"])
            yield Asked(name, f"annotation {annotation['name']}", "Anno", annotation["target"]["expr"], labels)


def _labels(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\{\{(\w+)\}\}", text))


def variables(of: Json) -> dict[str, Json]:
    """Its variables that are asked of Prometheus, by name."""
    return {variable["name"]: variable for variable in of["templating"]["list"] if variable["type"] == "query"}


def metrics(expr: str) -> set[str]:
    """The names of the metrics in an expression."""
    bare = re.sub(r'"[^"]*"', '""', expr)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right) *\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", bare)
    words = set(re.findall(r"(?<![\w:])[a-zA-Z_:][\w:]*\b(?![\w:]* *\()", bare))
    return words - {"or", "and", "unless", "by", "on", "bool", "offset", "NaN"}


def escaped(value: str) -> str:
    """One value of a variable as Grafana's Prometheus source puts it between quotes, for a regular expression."""
    return re.sub(r"[$^*{}\[\]'+?.()|\\]", lambda found: "\\\\" + found[0], value)


def filled(expr: str, chosen: Mapping[str, Sequence[str]], *, rate_interval: str, shown: str) -> str:
    """An expression with its variables put in.

    Args:
        chosen: by variable, the values that are picked; none picked: All, which is ``.*`` in these dashboards.
    """
    text = expr.replace("$__rate_interval", rate_interval).replace("$__range", shown)
    for name, values in chosen.items():
        if not values:
            put = ".*"
        elif len(values) == 1:
            put = escaped(values[0])
        else:
            put = f"({'|'.join(map(escaped, values))})"
        text = re.sub(rf"\$(?:{name}\b|{{{name}}})", put.replace("\\", r"\\"), text)
    left = re.findall(r"\$[a-zA-Z_{]\w*", text)
    assert not left, f"nobody fills {left} in {expr}"
    return text
