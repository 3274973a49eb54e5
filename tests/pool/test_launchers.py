"""Command lines, URLs and log lines."""

from __future__ import annotations

import re
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from headgate.app import launchers
from headgate.pool.launchers import Address, Launch, free_port, options
from headgate.pool.launchers.remote import RemoteLauncher, parse_url
from headgate.pool.launchers.simulated import SimulatedLauncher
from headgate.pool.launchers.vllm import VllmLauncher, find_executable, read_line
from headgate.settings import SettingsError, load

if TYPE_CHECKING:
    from collections.abc import Callable


def test_vllm_listens_on_loopback_at_the_port_that_the_gateway_looks_at() -> None:
    launch = VllmLauncher("org/model", args=("--dtype", "float32"))()
    port = str(launch.address.port)
    assert launch.argv[1:7] == ("serve", "org/model", "--host", "127.0.0.1", "--port", port)
    assert launch.argv[-2:] == ("--dtype", "float32")
    assert launch.address.url == f"http://127.0.0.1:{port}"
    assert launch.env["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] == "75"
    assert launch.env["VLLM_NO_USAGE_STATS"] == launch.env["DO_NOT_TRACK"] == "1"


def test_each_start_has_a_port_of_its_own() -> None:
    launcher = SimulatedLauncher()
    assert len({launcher().address.port for _ in range(10)}) > 1


@pytest.mark.parametrize(
    "arg", ["--host", "--host=0.0.0.0", "--port", "--port=1", "--uds", "--api-key", "--api_key=x", "--headless"]
)
def test_an_argument_that_would_move_the_engine_is_refused_with_a_sentence(arg: str) -> None:
    with pytest.raises(ValueError, match=r"ENGINE_ARGS cannot contain --[a-z-]+: .+\. Leave it out\."):
        VllmLauncher("m", args=("--dtype", "auto", arg))


LAUNCHERS = [partial(VllmLauncher, "m"), SimulatedLauncher]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_each_start_has_a_key_of_its_own_which_no_list_of_processes_and_no_repr_shows(
    launcher: Callable[..., Callable[[], Launch]],
) -> None:
    factory = launcher()
    launches = [factory() for _ in range(3)]
    keys = {launch.api_key for launch in launches}
    assert len(keys) == 3
    for launch in launches:
        assert launch.api_key is not None
        assert len(launch.api_key) >= 43  # 32 random bytes
        assert launch.env["VLLM_API_KEY"] == launch.api_key
        assert launch.api_key not in " ".join(launch.argv) + repr(launch)
        assert launch.key_is_made


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_key_that_was_given_counts_but_not_among_the_arguments(
    launcher: Callable[..., Callable[[], Launch]],
) -> None:
    factory = launcher(api_key="the-operators")
    launch = factory()
    assert (launch.api_key, launch.env["VLLM_API_KEY"], launch.key_is_made) == ("the-operators",) * 2 + (False,)
    assert "the-operators" not in " ".join(launch.argv) + repr(launch) + repr(factory)
    with pytest.raises(ValueError, match="ENGINE_API_KEY"):
        launcher(args=("--api-key=x",))


@pytest.mark.parametrize("command", ["", "  ", "'unclosed"])
def test_a_command_that_cannot_be_read_is_refused_with_a_sentence(command: str) -> None:
    with pytest.raises(ValueError, match="ENGINE_COMMAND"):
        VllmLauncher("m", command=command)


def test_a_command_of_several_words_is_read_as_a_shell_would() -> None:
    launch = VllmLauncher("m", command="'/opt/my env/python' -m vllm.entrypoints.cli.main")()
    assert launch.argv[:4] == ("/opt/my env/python", "-m", "vllm.entrypoints.cli.main", "serve")


def test_an_executable_beside_this_python_is_found_with_no_activated_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    found = find_executable(sys.executable.rpartition("/")[2])
    assert found is not None
    assert found[0].endswith(sys.executable.rpartition("/")[2])
    assert find_executable("no-such-engine") is None


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), 256),
        (("--max-num-seqs", "8"), 8),
        (("--max-num-seqs=8",), 8),
        (("--max_num_seqs", "8"), 8),
        (("--max-num-seqs=8", "--max-num-seqs", "16"), 16),
        (("--max-num-seqs", "many"), 256),
        (("--max-num-seqs",), 256),
    ],
)
def test_the_batch_size_is_read_from_the_arguments(args: tuple[str, ...], expected: int) -> None:
    assert VllmLauncher("m", args=args)().max_num_seqs == expected


def test_names_are_known_before_the_engine_answers() -> None:
    assert VllmLauncher("org/m")().model_names == ("org/m",)
    assert VllmLauncher("org/m", ("a", "b"))().model_names == ("a", "b")
    assert VllmLauncher("org/m", ("a",), ("--served-model-name", "x", "y", "--dtype", "auto"))().model_names == (
        "x",
        "y",
    )
    assert SimulatedLauncher("toy")().model_names == ("toy",)


def test_options_end_at_the_next_flag() -> None:
    assert options(["--a", "1", "2", "--b"], "--a") == ["1", "2"]
    assert options(["--b"], "--a") is None
    assert options(["--a"], "--a") == []


def test_equal_arguments_have_a_history_in_common_and_the_port_is_no_part_of_it() -> None:
    launcher = VllmLauncher("m", args=("--dtype", "auto"))
    assert launcher().history_key == launcher().history_key
    assert launcher().history_key != VllmLauncher("m")().history_key


@pytest.mark.parametrize(
    ("line", "phase", "fraction"),
    [
        (
            "(EngineCore pid=7) INFO 11-21 [cpu_model_runner.py:68] Starting to load model /m...",
            "loading weights",
            None,
        ),
        ("Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01]", "loading weights", 0.5),
        ("model.safetensors:  45%|####5     | 450M/1.00G", None, None),
        ("Downloading shards: 100%|##########| 2/2", "downloading", 1.0),
        ("INFO Loading weights took 2.31 seconds", "weights loaded", None),
        ("INFO [monitor.py:20] torch.compile took 12.30 s in total", "compiling", None),
        ("WARNING Enforce eager set, disabling torch.compile, CUDAGraphs, and JIT kernel warmup.", None, None),
        ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  40%|####      | 2/5", "capturing CUDA graphs", 0.4),
        ("INFO [kv_cache_utils.py] GPU KV cache size: 111,238 tokens", "making the KV cache", None),
        ("INFO:     Application startup complete.", "opening the server", None),
        ("INFO Avg prompt throughput: 10 tokens/s, GPU KV cache usage: 3.0%", None, None),
    ],
)
def test_a_log_line_of_vllm_says_how_far_the_start_is(line: str, phase: str | None, fraction: float | None) -> None:
    progress = read_line(line)
    if phase is None:
        assert progress is None
    else:
        assert progress is not None
        assert (progress.phase, progress.fraction, progress.line) == (phase, fraction, line)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://10.0.0.5:8000", Address("10.0.0.5", 8000)),
        ("http://10.0.0.5:8000/", Address("10.0.0.5", 8000)),
        ("http://engine/v1", Address("engine", 80)),
        ("https://engine/v1/", Address("engine", 443, tls=True)),
        ("https://engine:8443/llm/a/v1", Address("engine", 8443, tls=True, prefix="/llm/a")),
        (" http://[::1]:8000 ", Address("::1", 8000)),
    ],
)
def test_a_base_url_is_understood_with_and_without_v1(url: str, address: Address) -> None:
    assert parse_url(url) == address
    launch = RemoteLauncher(address)()
    assert launch.address == address
    assert not launch.is_ours


@pytest.mark.parametrize(
    "url",
    [
        "",
        "engine:8000",
        "ftp://engine",
        "http://",
        "http://engine:0",
        "http://engine:99999",
        "http://engine:x",
        "http://user:secret@engine",
        "http://engine/v1?x=1",
        "http://engine/#x",
        "http://engine/a b",
        "http://[::1",
        "http://a..b:8000",
        f"http://{'x' * 64}:8000",
    ],
)
def test_anything_else_is_refused_with_an_example_of_what_is_meant(url: str) -> None:
    with pytest.raises(ValueError, match=re.escape("http://10.0.0.5:8000")):
        parse_url(url)


def test_an_address_makes_the_url_it_came_from() -> None:
    for url in ("http://[::1]:8000", "https://engine:8443/llm", "http://engine:80"):
        assert parse_url(url).url == url


def test_no_engine_gets_a_port_that_an_outgoing_connection_could_take() -> None:
    assert all(free_port() < 32768 for _ in range(20))


@pytest.mark.parametrize(
    "url", ["http://me:sekret@127.0.0.1:9", "me:sekret@127.0.0.1", "http://:sekret@h:x", "//s:sekret@"]
)
def test_a_password_in_an_address_is_not_told_again(url: str) -> None:
    with pytest.raises(ValueError, match="ENGINE_URLS has") as refused:
        parse_url(url)
    assert "sekret" not in str(refused.value)


def test_an_engine_that_is_named_twice_is_refused() -> None:
    """It got twice its slots."""
    environ = {"HEADGATE_ENGINE_URLS": "http://Gpu:8000/v1, http://gpu:8000, http://gpu:8001"}
    with pytest.raises(SettingsError, match="has http://gpu:8000 twice"):
        launchers(load({}, environ))
    environ["HEADGATE_ENGINE_URLS"] = "http://gpu:8000, http://gpu:8001"
    assert len(launchers(load({}, environ))) == 2
