from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from headgate.cli import main
from headgate.workbench.top.source import NotReached, Picture, Source
from tests.workbench.running import Ran, environment, gateway, run_python

TOP = (
    "import sys, json; from headgate.workbench import top; "
    "sys.exit(top.run(sys.argv[1], interval_s=0.05, **json.loads(sys.argv[2])))"
)


def top(folder: Path, url: str, **options: object) -> Ran:
    return run_python(TOP, folder, environment(COLUMNS="80", LINES="24"), url, json.dumps(options))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    flags = ("--max-active", "4", "--engine-args", "--load-s 0", "--gpu-price-per-hour", "2.5")
    with gateway(tmp_path_factory.mktemp("gateway"), *flags) as url:
        body = {"model": "headgate-simulated", "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}
        httpx.post(f"{url}/v1/chat/completions", json=body, timeout=20, trust_env=False).raise_for_status()
        yield url


def test_one_frame_shows_the_gateway(served: str, tmp_path: Path) -> None:
    ran = top(tmp_path, served, once=True)
    assert ran.status == 0, ran.err
    lines = ran.out.splitlines()
    assert "READY" in lines[0]
    assert "0 of 4 held" in ran.out
    assert any(line.startswith("e0  READY    simulated  0 of 4 in flight") for line in lines)
    assert any(line.startswith("cost     ") and "per million tokens" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_with_no_terminal_one_frame_is_enough(served: str, tmp_path: Path) -> None:
    assert "slots" in top(tmp_path, served).out


def test_json_has_the_status_and_the_rates(served: str, tmp_path: Path) -> None:
    said = json.loads(top(tmp_path, f"{served}/v1", as_json=True).out)
    assert said["reached"] is True
    assert said["status"]["slots"]["max_active"] == 4
    assert said["rates"]["requests_per_s"] == 0.0
    assert said["rates"]["ttft_p50_s"] is None


def test_a_gateway_that_is_not_there_is_told_in_plain_words(tmp_path: Path) -> None:
    ran = top(tmp_path, "127.0.0.1:9", once=True)
    assert (ran.status, ran.out.strip()) == (1, "Can't reach http://127.0.0.1:9: nothing listens there.")
    assert json.loads(top(tmp_path, "127.0.0.1:9", as_json=True).out)["problem"] == "nothing listens there"


def test_what_is_no_address_is_told_as_such() -> None:
    """Half an IPv6 address was a traceback."""
    for url in ("http://[::1", "ftp://x"):
        with pytest.raises(NotReached, match="that is no address") as told:
            look(url)
        assert told.value.lasting


def look(url: str, key: str | None = None) -> Picture:
    with closing(Source(url, key)) as source:
        return source.look()


def test_closed_operations_want_the_key(tmp_path: Path) -> None:
    flags = ("--ops-auth", "key", "--api-key", "sk-test", "--engine-args", "--load-s 0")
    with gateway(tmp_path, *flags) as url:
        with pytest.raises(NotReached, match="--key") as wanted:
            look(url)
        with pytest.raises(NotReached, match="refuses this key"):
            look(url, "wrong")
        assert look(url, "sk-test").status.version
        once = CliRunner().invoke(main, ["top", url, "--once"], env={"HEADGATE_API_KEY": "sk-test"})
        assert once.exit_code == 0, "who has no key on the command line keeps it out of the list of processes"
    assert wanted.value.lasting


def test_something_that_is_no_headgate_is_told_as_such(served: str) -> None:
    with pytest.raises(NotReached, match="not as a Headgate does"):
        look(f"{served}/v2")
