"""The Locust users against a real gateway, as ``make loadtest`` starts them: headless, and with Locust's page."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from headgate.workbench.compare.start import Engine, running
from headgate.workbench.compare.targets import Candidate
from tests.wire.gateway import wait_until
from tests.workbench.running import environment, gateway

pytestmark = pytest.mark.load

ROOT = Path(__file__).parents[2]
LOCUSTFILE = ROOT / "loadtest" / "locustfile.py"
QUIET = ("--only-summary", "--stop-timeout", "20", "--csv", "r", "--output-tokens", "20")
Rows = dict[tuple[str, str], dict[str, str]]


@pytest.fixture(scope="session")
def locust() -> str:
    """The command; skips where Locust is not installed."""
    path = Path(os.environ.get("HEADGATE_TEST_LOCUST") or ROOT / ".venv-load" / "bin" / "locust")
    if not path.exists():
        pytest.skip("Locust is not here (make test-loadtest installs it)")
    return str(path.absolute())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    flags = ("--max-active", "8", "--engine-args", "--load-s 0 --base-s 0.002")
    with gateway(tmp_path_factory.mktemp("gateway"), *flags) as url:
        yield url


def headless(locust: str, folder: Path, url: str, *arguments: str) -> tuple[subprocess.CompletedProcess[str], Rows]:
    """A run without a page: how it ended, and its rows by type and name."""
    done = subprocess.run(
        [locust, "-f", str(LOCUSTFILE), "-H", url, "--headless", *QUIET, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(),
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    with (folder / "r_stats.csv").open() as file:
        return done, {(row["Type"], row["Name"]): row for row in csv.DictReader(file)}


STREAMED, WHOLE = "/v1/chat/completions streamed", "/v1/chat/completions whole"


def test_users_that_stream_and_users_that_do_not_have_their_rows(locust: str, served: str, tmp_path: Path) -> None:
    done, rows = headless(locust, tmp_path, served, "-u", "4", "-r", "4", "-t", "3s")
    assert done.returncode == 0, done.stderr + done.stdout
    kinds = [(kind, name) for kind, name in rows if name != "Aggregated"]
    assert sorted(kinds) == sorted(
        [
            *((kind, STREAMED) for kind in ("POST", "TTFT", "inter-token", "tokens/s")),
            *((kind, WHOLE) for kind in ("POST", "tokens/s")),
        ]
    )
    for kind, name in kinds:
        row = rows[kind, name]
        assert int(row["Request Count"]) > 0
        assert row["Failure Count"] == "0"
        if kind in ("POST", "tokens/s"):
            assert float(row["Average Content Size"]) == 20, "the answer's tokens"
    first, whole = rows["TTFT", STREAMED], rows["POST", STREAMED]
    assert float(first["Average Response Time"]) < float(whole["Average Response Time"])
    assert "met    latency p95" in done.stdout


def test_an_open_load_is_refused_what_a_full_gateway_refuses_and_misses_the_slo(locust: str, tmp_path: Path) -> None:
    flags = ("--max-active", "1", "--queue-mode", "reject", "--engine-args", "--load-s 0 --base-s 0.02")
    with gateway(tmp_path, *flags) as url:
        done, rows = headless(locust, tmp_path, url, "--rate", "20", "-t", "3s", "--streaming-percent", "100")
    assert done.returncode == 1
    assert "MISSED errors" in done.stdout
    row = rows["POST", STREAMED]
    asked, failed = int(row["Request Count"]), int(row["Failure Count"])
    assert asked > 20, "it waits for nobody: one slot alone would have served about seven"
    assert 0 < failed < asked
    assert float(row["Min Response Time"]) > 100, "a refusal has no time"
    with (tmp_path / "r_failures.csv").open() as file:
        (failure,) = csv.DictReader(file)
    assert "429 slots_busy" in failure["Error"]


@pytest.mark.parametrize("load", [("--rate", "8"), ("-u", "3", "-r", "3")], ids=["open", "closed"])
def test_what_has_not_ended_with_the_run_is_an_error(locust: str, tmp_path: Path, load: tuple[str, ...]) -> None:
    """It was in no figure: an engine at which half of all requests hung met the SLO."""
    stall = '{"kind":"stall","seconds":600,"times":2,"after_requests":4}'
    with gateway(tmp_path, "--max-active", "64", "--engine-args", f"--load-s 0 --fault '{stall}'") as url:
        done, rows = headless(locust, tmp_path, url, *load, "-t", "2s", "--stop-timeout", "1")
    assert done.returncode == 1, done.stderr
    assert "MISSED errors" in done.stdout
    assert sum(int(row["Failure Count"]) for (kind, _), row in rows.items() if kind == "POST") == 2
    assert "run_ended" in (tmp_path / "r_failures.csv").read_text()


def test_refusals_have_a_bound_of_their_own(locust: str, tmp_path: Path) -> None:
    """All were errors, and of refusals there were none."""
    (tmp_path / "slo.toml").write_text("errors_percent = 0\nrefusals_percent = 99\n")
    flags = ("--max-active", "1", "--queue-mode", "reject", "--engine-args", "--load-s 0 --base-s 0.02")
    with gateway(tmp_path, *flags) as url:
        done, _ = headless(locust, tmp_path, url, "--rate", "20", "-t", "2s", "--slo", "slo.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "met    errors 0 %" in done.stdout
    assert "met    refusals 0 %" not in done.stdout


def test_a_first_token_is_seen_when_it_comes_whatever_lines_end_in(locust: str, tmp_path: Path) -> None:
    """Where they end in CRLF it was seen with the last one, and there were no gaps between tokens."""
    crlf = """--load-s 0 --base-s 0.02 --fault '{"kind":"crlf","times":null}'"""
    with running(Candidate("simulated", direct=True), Engine(args=crlf), 30.0) as url:
        done, rows = headless(locust, tmp_path, url, "-u", "1", "-t", "3s", "--streaming-percent", "100")
    assert done.returncode == 0, done.stderr
    whole, first, gap = (
        float(rows[kind, STREAMED]["Average Response Time"]) for kind in ("POST", "TTFT", "inter-token")
    )
    assert first < whole / 2
    assert gap > 5


def test_users_do_not_hammer_at_a_door_that_nobody_opens(locust: str, tmp_path: Path) -> None:
    """An engine that was gone for two seconds made 3,741 errors of two users."""
    died = """--load-s 0 --fault '{"kind":"crash","after_requests":12}'"""
    with running(Candidate("simulated", direct=True), Engine(args=died), 30.0) as url:
        _, rows = headless(locust, tmp_path, url, "-u", "2", "-t", "3s")
    assert 1 <= sum(int(row["Failure Count"]) for (kind, _), row in rows.items() if kind == "POST") <= 12


@pytest.mark.parametrize("kind", ["conversation", "shared-prefix", "mixed"])
def test_every_workload_is_answered_and_users_follow_a_shape(
    locust: str, served: str, tmp_path: Path, kind: str
) -> None:
    done, rows = headless(locust, tmp_path, served, "--shape", "step:1,4", "-t", "3s", "--workload", kind)
    assert done.returncode == 0, done.stderr + done.stdout
    assert rows["POST", STREAMED]["Failure Count"] == "0"
    assert "Shape test updating to 1 users" in done.stderr
    assert "Shape test updating to 4 users" in done.stderr


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ([], "http://127.0.0.1:9 can't be reached: nothing listens there."),
        (["--rate", "nonsense"], "'nonsense' is no rate."),
        (["--shape", "nonsense"], "'nonsense' is no rate."),
        (["--slo", "none.toml"], "none.toml: No such file or directory"),
        (["--streaming-percent", "150"], "--streaming-percent 150: it takes 0 to 100"),
        (["--output-tokens", "0"], "--output-tokens 0: it takes 1 at least"),
        (["--rate", "5", "--shape", "ramp:1-5"], "give one of them"),
        (["--api-key", "a\nb"], "keys and headers are visible ASCII"),
    ],
)
def test_a_load_that_cannot_be_is_told_in_one_line(locust: str, tmp_path: Path, flags: list[str], why: str) -> None:
    done = subprocess.run(
        [locust, "-f", LOCUSTFILE, "-H", "http://127.0.0.1:9", "--headless", "-t", "2s", *flags],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert why in done.stderr


def test_the_page_starts_a_load_and_shows_its_rows(locust: str, served: str, tmp_path: Path) -> None:
    with page(locust, tmp_path, served) as client:
        assert "Locust" in client.get("/").text
        form = {"user_count": "2", "spawn_rate": "2", "host": served, "output_tokens": "10", "run_time": "60s"}
        assert client.post("/swarm", data=form).json()["success"]

        def rows() -> set[str]:
            return {row["method"] for row in client.get("/stats/requests").json()["stats"]}

        wait_until(lambda: {"POST", "TTFT", "inter-token", "tokens/s"} <= rows(), "rows of every type")
        assert client.post("/stop").json()["success"]


@contextmanager
def page(locust: str, folder: Path, url: str) -> Iterator[httpx.Client]:
    """Locust with its page, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [locust, "-f", LOCUSTFILE, "-H", url, "--web-host", "127.0.0.1", "--web-port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=environment(),
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as client:

            def answers() -> bool:
                try:
                    return client.get("/").status_code == 200
                except httpx.TransportError:
                    return False

            wait_until(answers, "its page is there")
            yield client
    finally:
        process.terminate()
        process.wait(20)
