"""Pin what the gateway and its development need: ``run.txt`` and ``dev.txt``, hashed, naming no index and no host.

``make lock`` runs it. The lists come from pyproject.toml; ``dev.txt`` holds all of ``run.txt`` too.
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
    """Write both files."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    _compile("run.txt", BUILD)
    _compile("dev.txt", (*BUILD, *groups["dev"]), "--constraint", "requirements/run.txt")


def _compile(name: str, more: tuple[str, ...], *options: str) -> None:
    command = [sys.executable, "-m", "piptools", "compile", "--quiet", "--no-config", "--generate-hashes"]
    command += ["--extra", "tracing"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--no-header", "--no-annotate", "--strip-extras"]
    command += ["--allow-unsafe", *options, "--output-file", f"requirements/{name}", "pyproject.toml", "-"]
    subprocess.run(command, cwd=ROOT, input="\n".join(more), text=True, check=True)


if __name__ == "__main__":
    main()
