"""Pin what the gateway, its development and its load tests need, hashed, naming no index and no host.

``make lock`` runs it: ``run.txt``, ``dev.txt`` and ``load.txt`` (Locust, in an environment of its own). The lists come
from pyproject.toml; ``dev.txt`` and ``load.txt`` hold all of ``run.txt`` too.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILD = ("hatchling", "editables")
"""What `pip install --no-build-isolation -e .` needs to be there."""


def main() -> None:
    """Write the files."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    _compile("run.txt", BUILD)
    _compile("dev.txt", (*BUILD, *groups["dev"]), "--constraint", "requirements/run.txt")
    _compile("load.txt", (*BUILD, *groups["load"]), "--constraint", "requirements/run.txt")


def _compile(name: str, more: tuple[str, ...], *options: str) -> None:
    command = [sys.executable, "-m", "piptools", "compile", "--quiet", "--no-config", "--generate-hashes"]
    command += ["--extra", "redis", "--extra", "tracing"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--no-header", "--no-annotate", "--strip-extras"]
    command += ["--allow-unsafe", *options, "--output-file", f"requirements/{name}", "pyproject.toml", "-"]
    subprocess.run(command, cwd=ROOT, input="\n".join(more), text=True, check=True)


if __name__ == "__main__":
    main()
