"""The docs are tied to the code: what exists is documented, and what is documented exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headgate.api.generation import ENDPOINTS
from headgate.api.problems import STATUS
from headgate.errors import Reason
from headgate.pool.lifecycle import to_mermaid
from headgate.settings import Settings
from headgate.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
API = (ROOT / "docs/api.md").read_text()


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_has_its_row(name: str) -> None:
    assert re.search(rf"^\| `{name.upper()}` \|", CONFIGURATION, re.MULTILINE), f"{name.upper()} is not documented"


def test_every_documented_setting_exists() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \|", CONFIGURATION, re.MULTILINE)
    assert sorted(name.lower() for name in rows) == sorted(Settings.model_fields)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_its_row_with_its_status(reason: Reason) -> None:
    assert re.search(rf"^\| `{reason}` \| {STATUS[reason]} \|", API, re.MULTILINE), f"{reason} is not documented"


@pytest.mark.parametrize("path", list(ENDPOINTS))
def test_every_generation_endpoint_is_documented(path: str) -> None:
    assert path in API


def test_every_metric_is_documented_with_its_labels() -> None:
    for instrument in Metrics().instruments:
        suffix = "_total" if type(instrument).__name__ == "Counter" else ""
        labels = ", ".join(instrument.labels)
        assert f"| `{instrument.name}{suffix}` | {labels} |" in API, f"{instrument.name} is not documented"


def test_picture_of_the_engines_life_is_drawn_from_its_table() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    assert f"```mermaid\n{to_mermaid().strip()}\n```" in page, "docs/architecture.md has an old picture"


def test_every_link_between_the_docs_leads_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which isn't there"


def test_no_page_has_what_a_merge_left_behind() -> None:
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        assert not re.search(r"^(<{7}|>{7})", page.read_text(), re.MULTILINE), page.name


def test_nobody_is_sent_to_an_index_for_our_name() -> None:
    """Nothing of ours is published, and what is called `headgate` on PyPI is somebody else's."""
    pages = (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py"))
    for page in pages:
        assert not re.search(r"install[^\n`]*['\" ]headgate\b", page.read_text()), page


def test_caddy_cancels_when_a_client_leaves() -> None:
    """With a negative `flush_interval` it reads a whole answer on: seen with 2.6, the slot was held to its end."""
    caddy = (ROOT / "docs/deployment.md").read_text().partition("\nllm.example.org {")[2].partition("```")[0]
    assert "reverse_proxy" in caddy
    assert "flush_interval" not in caddy


def test_pinned_requirements_name_no_index() -> None:
    pinned = [*(ROOT / "requirements").glob("*.txt"), *(ROOT / "tests").rglob("requirements*.txt")]
    pinned += (ROOT / "tests").rglob("package-lock.json")
    assert len(pinned) > 2
    for file in pinned:
        assert not re.search(r"://|--(extra-)?index-url|--find-links", file.read_text()), file
