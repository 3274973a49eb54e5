from __future__ import annotations

import json
import resource
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from headgate.keys import edit
from headgate.keys.records import hash_of
from headgate.workbench.check import Look, port, remote, report
from headgate.workbench.check.finding import Verdict
from tests.redis_server import RedisServer
from tests.simulated import simulated_engine
from tests.workbench.running import environment, gateway, nvidia_smi, run_python, script

CHECK = (
    "import sys, json; from headgate.workbench import check; "
    "sys.exit(check.run(sys.argv[1] or None, json.loads(sys.argv[2]), '--json' in sys.argv))"
)
DEAD = "http://127.0.0.1:9"


def check(folder: Path, model: str = "", env: dict[str, str] | None = None, **flags: str) -> tuple[int, dict[str, Any]]:
    """What ``--json`` would say, with the exit status."""
    given = {"port": "0", "cache_dir": str(folder / "cache"), **flags}
    look = Look(model or None, given, env or environment())
    findings = list(look.findings())
    status = look.status(findings)
    said: dict[str, Any] = json.loads(report.as_json(findings, look.sentence(findings), status, look.command))
    assert said["exit_status"] == status
    return status, said


def verdicts(said: dict[str, Any]) -> dict[str, str]:
    return {finding["name"]: finding["verdict"] for finding in said["findings"]}


def test_with_nothing_given_the_simulated_engine_will_work(tmp_path: Path) -> None:
    status, said = check(tmp_path)
    assert status == 0
    assert "would listen on a free port of 127.0.0.1 and answer with made-up text" in said["sentence"]


def test_with_no_vllm_and_no_gpu_a_model_will_not_work(tmp_path: Path) -> None:
    env = environment(PATH=str(tmp_path), HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    status, said = check(tmp_path, "Qwen/Tiny", env, engine_command="no-such-vllm")
    assert status == 1
    assert [verdicts(said)[name] for name in ("gpu", "engine", "model")] == ["fail"] * 3
    assert said["sentence"].endswith("would not work here now: see FAIL at gpu, engine, model.")


def test_with_vllm_a_gpu_and_a_folder_it_says_what_will_be_started(tmp_path: Path) -> None:
    model = tmp_path / "tiny"
    model.mkdir()
    (model / "config.json").write_text('{"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 64}')
    (model / "model.safetensors").write_bytes(b"w" * 5000)
    (model / "tokenizer.json").write_text("{}")
    nvidia_smi(tmp_path / "bin", "0, GPU-aa, NVIDIA H200, 143771, 143000, 580.95")
    command = str(script(tmp_path / "bin", "vllm", "echo 0.32.0"))
    env = environment(PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin")
    status, said = check(tmp_path, str(model), env, engine_command=command)
    assert (status, verdicts(said)["fit"]) == (0, "ok")
    assert f"start vLLM 0.32.0 on NVIDIA H200, and load {model}" in said["sentence"]


def test_an_argument_that_would_move_the_engine_away_fails(tmp_path: Path) -> None:
    status, said = check(tmp_path, "Qwen/Tiny", engine_args="--port 9000")
    assert status == 1
    assert any("ENGINE_ARGS cannot contain --port" in finding["what"] for finding in said["findings"])


def test_a_bad_setting_is_named_and_the_rest_of_the_machine_is_looked_at_all_the_same(tmp_path: Path) -> None:
    status, said = check(tmp_path, queue_max="lots")
    assert status == 2
    assert "--queue-max = 'lots'" in said["findings"][0]["what"]
    assert verdicts(said)["python"] == "ok"


def test_a_variable_that_lacks_the_prefix_is_told_of_without_its_value(tmp_path: Path) -> None:
    for flags in ({}, {"queue_max": "lots"}):
        _, said = check(tmp_path, env=environment(API_KEY="very-secret", SLO_TTFT_S="2"), **flags)
        assert verdicts(said)["settings"] == "warn"
        assert "Set HEADGATE_API_KEY, HEADGATE_SLO_TTFT_S." in [finding["mend"] for finding in said["findings"]]
        assert "very-secret" not in json.dumps(said)
    _, said = check(tmp_path, env=environment(SLO_TTFT_S="2"), slo_ttft_s="1")
    assert verdicts(said)["settings"] == "ok"


def test_a_key_that_was_given_is_not_shown(tmp_path: Path) -> None:
    _, said = check(tmp_path, api_key="sk-very-secret", host="0.0.0.0")
    assert "very-secret" not in json.dumps(said)
    assert verdicts(said)["keys"] == "ok"


def test_an_open_host_with_no_key_warns(tmp_path: Path) -> None:
    status, said = check(tmp_path, host="0.0.0.0")
    assert (status, verdicts(said)["keys"]) == (0, "warn")


def test_a_keys_file_is_a_key_that_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(edit.add("", "team-a", {"hash": hash_of("secret")}))
    for host in ("0.0.0.0", "127.0.0.1"):
        status, said = check(tmp_path, api_keys_file=str(file), host=host)
        assert (status, verdicts(said)["keys"]) == (0, "ok")
        assert f"an API key is asked for (1 key in {file})" in said["findings"][-1]["what"]


@pytest.mark.parametrize("content", [None, "[keys.team-a]\n", "[keys"])
def test_a_keys_file_with_which_serve_does_not_start_fails(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "keys.toml"
    if content is not None:
        file.write_text(content)
    status, said = check(tmp_path, api_keys_file=str(file))
    assert (status, verdicts(said)["keys"]) == (1, "fail")
    assert str(file) in said["findings"][-1]["what"]


def test_what_is_not_quoted_as_for_a_shell_is_a_bad_setting(tmp_path: Path) -> None:
    """It was said to work, and `serve` ended with "No closing quotation", which named nothing."""
    assert check(tmp_path, engine_command="'vllm")[0] == 2
    status, said = check(tmp_path, engine_args="'--max-model-len")
    assert status == 2
    assert "--engine-args = " in said["findings"][0]["what"]
    assert "quoted as for a shell, and isn't (no closing quotation)" in said["findings"][0]["what"]


def test_the_limit_of_open_files_is_the_one_that_serve_will_have(tmp_path: Path) -> None:
    """It raises its own; a machine with 1,024 of 1,048,576 was warned that 410 clients would fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        _, said = check(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    [files] = [finding["what"] for finding in said["findings"] if finding["name"] == "files"]
    assert files.startswith(f"{hard:,} open files allowed" if hard >= 0 else "no limit")


def test_a_redis_that_cannot_be_warns_or_fails_without_its_password(tmp_path: Path) -> None:
    status, said = check(tmp_path, redis_url="redis://:very-secret@127.0.0.1:9/0")
    assert (status, verdicts(said)["redis"]) == (0, "warn")
    assert "very-secret" not in json.dumps(said)
    for nonsense in ("127.0.0.1:99999999/0", "127.0.0.1:9/0?nonsense=1"):
        status, said = check(tmp_path, redis_url=f"redis://:very-secret@{nonsense}")
        assert (status, verdicts(said)["redis"]) == (1, "fail")
        assert "very-secret" not in json.dumps(said)


def test_a_redis_is_asked_for_what_serve_asks_it(tmp_path: Path) -> None:
    """A replica answers, and shares no rate: it was said to be well."""
    server = RedisServer()
    try:
        assert verdicts(check(tmp_path, redis_url=server.url)[1])["redis"] == "ok"
        assert server.ask("REPLICAOF", "127.0.0.1", "1") == "+OK"
        assert verdicts(check(tmp_path, redis_url=server.url)[1])["redis"] == "warn"
    finally:
        server.kill()


def test_a_password_in_the_collectors_address_is_not_shown(tmp_path: Path) -> None:
    env = environment(HEADGATE_OTEL_EXPORTER_OTLP_ENDPOINT="http://me:an@very-secret@127.0.0.1:4318")
    _, said = check(tmp_path, env=env)
    assert verdicts(said)["tracing"] == "ok"
    assert "very-secret" not in json.dumps(said)


def test_an_extra_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("redis.asyncio", "opentelemetry.sdk"):
        monkeypatch.setitem(sys.modules, module, None)
    collector = "http://127.0.0.1:9"
    status, said = check(tmp_path, redis_url="redis://127.0.0.1:9/0", otel_exporter_otlp_endpoint=collector)
    assert (status, verdicts(said)["redis"], verdicts(said)["tracing"]) == (1, "fail", "warn")
    mends = [finding["mend"] for finding in said["findings"]]
    here = f"{sys.executable} -m pip install"
    assert {f"{here} redis", f"{here} opentelemetry-exporter-otlp-proto-http"} <= set(mends)


def test_a_taken_port_fails_and_names_who_has_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        finding = port.look("127.0.0.1", number)
        assert finding.verdict is Verdict.FAIL
        assert "(pid " in finding.what


def test_a_gateway_that_runs_already_is_told_as_one(tmp_path: Path) -> None:
    with gateway(tmp_path) as url:
        finding = port.look("127.0.0.1", int(url.rpartition(":")[2]))
    assert "taken by a Headgate " in finding.what
    assert "that runs already" in finding.what


def test_a_remote_engine_that_answers_is_told_with_its_model() -> None:
    with simulated_engine() as engine:
        [finding] = remote.look([engine.url], None)
    assert finding.verdict is Verdict.OK
    assert "serves headgate-simulated; its load is seen" in finding.what


def test_a_remote_engine_that_is_gone_fails_alone_and_warns_beside_another() -> None:
    [alone] = remote.look([DEAD], None)
    assert (alone.verdict, alone.what) == (Verdict.FAIL, f"{DEAD}: nothing listens there")
    with simulated_engine() as engine:
        findings = remote.look([DEAD, f"{engine.url}/v1"], None)
    assert [finding.verdict for finding in findings] == [Verdict.WARN, Verdict.OK]


@pytest.mark.parametrize("wrong", ["gpu:8000", f"{DEAD}/v1"])
def test_remote_engines_with_which_serve_would_not_start_are_a_failure(wrong: str) -> None:
    """Beside one that answers it was a warning."""
    [finding] = remote.look([DEAD, wrong], None)
    assert finding.verdict is Verdict.FAIL
    assert finding.mend.startswith("ENGINE_URLS has ")


def test_remote_engines_that_serve_different_models_are_told() -> None:
    with simulated_engine() as one, simulated_engine() as two, simulated_engine("--model-name", "another") as other:
        assert len(remote.look([one.url, two.url], None)) == 2
        *_, finding = remote.look([one.url, other.url], None)
    assert finding.verdict is Verdict.WARN
    assert "don't serve the same models" in finding.what


def test_a_remote_engine_that_wants_a_key_names_the_setting() -> None:
    with simulated_engine("--api-key", "secret") as engine:
        [without] = remote.look([engine.url], None)
        [with_] = remote.look([engine.url], "secret")
    assert "HEADGATE_ENGINE_API_KEY" in without.mend
    assert with_.verdict is Verdict.OK


def test_the_command_prints_json_for_a_script_and_exits_as_it_says(tmp_path: Path) -> None:
    ran = run_python(CHECK, tmp_path, environment(), "", '{"queue_max": "lots"}', "--json")
    assert ran.status == json.loads(ran.out)["exit_status"] == 2


@pytest.mark.parametrize("columns", [80, 120])
def test_what_a_person_sees_fits_the_terminal(tmp_path: Path, columns: int) -> None:
    env = environment(COLUMNS=str(columns), PATH=str(tmp_path))
    flags = json.dumps({"port": "0", "engine_command": "no-such-vllm"})
    ran = run_python(CHECK, tmp_path, env, str(tmp_path), flags)
    assert ran.status == 1, ran.err
    assert max(map(len, ran.out.splitlines())) <= columns
    assert "FAIL" in ran.out
