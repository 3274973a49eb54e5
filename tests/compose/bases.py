"""The images that the stack is made of, with no registry: Debian's packages under the upstream names and tags.

Python, Prometheus and Redis are the real programs, in Debian's versions. What Debian doesn't have is stood in for
(``standins``). The names and tags are read from the files of the stack, so they follow its pins.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tests.compose.engine import Engine, run

ROOT = Path(__file__).parents[2]
STANDINS = Path(__file__).parent / "standins"
RELEASE = "bookworm"
PACKAGES = "ca-certificates,python3,python3-venv,python3-pip,python3-dev"
BUILD_S = 900.0
"""The gateway is compiled in its build, on a machine that may have other things to do."""

_INSTALL = "apt-get update -qq && apt-get install -y -qq --no-install-recommends"
_ABOUT_PIP = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
"""What of this machine's pip is carried into the base image. Folders of this machine aren't there."""


def pinned() -> dict[str, str]:
    """The image of each service, and what the Dockerfiles build on, as ``python`` and ``vllm``."""
    services = yaml.safe_load((ROOT / "compose/services.yaml").read_text())["services"]
    images = {name: service["image"] for name, service in services.items() if "image" in service}
    for name, file in (("python", "Dockerfile"), ("vllm", "Dockerfile.gpu")):
        found = re.search(rf"^ARG {name.upper()}_IMAGE=(\S+)$", (ROOT / "compose" / file).read_text(), re.MULTILINE)
        assert found, f"{file} names no {name.upper()}_IMAGE"
        images[name] = found[1]
    return images


def ensure(engine: Engine) -> None:
    """Have all of them but vLLM's in the engine; what is there already is not made again."""
    about = [RELEASE, PACKAGES, _pip_conf(), _certificates()]
    base = f"headgate-test-base:{hashlib.sha256(chr(0).join(about).encode()).hexdigest()[:12]}"
    if not engine.docker("image", "ls", "--quiet", base).strip():
        _import_base(engine, base)
    for tag, recipe in _recipes(base, pinned()).items():
        build(engine, "--tag", tag, "--file", "-", str(STANDINS), recipe=recipe)


def make_vllm(engine: Engine, gateway: str) -> None:
    """The stand-in for vLLM's image: its command is the simulated engine, taken from the gateway's image.

    Like vLLM's it has a compiler.
    """
    recipe = f"""
        FROM {gateway} AS simulator
        FROM {pinned()["python"]}
        RUN {_INSTALL} gcc libc6-dev >/dev/null
        COPY --from=simulator /opt/headgate /opt/simulator
        COPY vllm /usr/local/bin/vllm
    """
    build(engine, "--tag", pinned()["vllm"], "--file", "-", str(STANDINS), recipe=recipe)


def build(engine: Engine, *arguments: str, recipe: str | None = None) -> None:
    """``docker build``, on this machine's network and through its proxies."""
    proxies = [
        f"--build-arg={name}" for name in os.environ if name.upper() in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    ]
    input_ = recipe.encode() if recipe is not None else None
    engine.docker("build", "--network=host", *proxies, *arguments, input_=input_, timeout_s=BUILD_S)


def _recipes(base: str, images: dict[str, str]) -> dict[str, str]:
    """A Dockerfile for each tag, with what the upstream image promises: user, command, the owner of its volume."""
    tools = "headgate-test-tools:1"
    return {
        images["python"]: f'FROM {base}\nRUN ln -s /usr/bin/python3 /usr/local/bin/python\nCMD ["python3"]\n',
        tools: f"FROM {base}\nRUN {_INSTALL} bash curl prometheus redis-server wget >/dev/null\n"
        "COPY stub.py /stub.py\n",
        images["prometheus"]: f"FROM {tools}\nRUN install -d -o 65534 -g 65534 /prometheus\n"
        'WORKDIR /prometheus\nUSER 65534:65534\nVOLUME ["/prometheus"]\nENTRYPOINT ["/usr/bin/prometheus"]\n',
        images["redis"]: f'FROM {tools}\nRUN install -d -o 999 -g 1000 /data\nWORKDIR /data\nCMD ["redis-server"]\n',
        images["grafana"]: f"FROM {tools}\nRUN install -d -o 472 -g 0 /var/lib/grafana\n"
        'USER 472:0\nENTRYPOINT ["python3", "/stub.py", "grafana"]\n',
        images["open-webui"]: f"FROM {tools}\nRUN mkdir -p /app/backend/data\n"
        'CMD ["python3", "/stub.py", "open-webui"]\n',
        images["dcgm-exporter"]: f'FROM {tools}\nENTRYPOINT ["python3", "/stub.py", "dcgm-exporter"]\n',
    }


def _import_base(engine: Engine, tag: str) -> None:
    with tempfile.TemporaryDirectory(prefix="headgate-base-") as folder:
        root = Path(folder) / "root"
        options = ["--variant=minbase", f"--include={PACKAGES}"]
        run(["debootstrap", *options, RELEASE, str(root)], engine.env, timeout_s=300)
        for useless in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"):
            shutil.rmtree(root / useless, ignore_errors=True)
        (root / "var/cache/apt/archives/partial").mkdir(parents=True)
        (root / "etc/pip.conf").write_text(_pip_conf())
        (root / "etc/ssl/certs/ca-certificates.crt").write_text(_certificates())
        with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as archive:
            engine.docker("import", "-", tag, stdin=archive.stdout, timeout_s=180)
        assert archive.returncode == 0


def _pip_conf() -> str:
    """Where this machine's pip looks, for the pip in the image: from its files and from PIP_… variables."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    found: dict[str, str] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        remote = [
            word for word in value.strip("'\"").replace("\\n", " ").split() if not word.startswith(("file:", "/"))
        ]
        if name in _ABOUT_PIP and remote:
            found[name] = " ".join(remote)
    lines = ["[global]", "cert = /etc/ssl/certs/ca-certificates.crt"]
    return "\n".join([*lines, *(f"{name} = {value}" for name, value in sorted(found.items()))]) + "\n"


def _certificates() -> str:
    """The authorities that this machine trusts."""
    named = os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt"
    return Path(named).read_text()
