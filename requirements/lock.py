"""Pin what the gateway, its development and its load tests need, hashed, naming no index and no host.

``make lock`` runs it: ``run.txt``, ``dev.txt``, ``build.txt`` (what a compiled wheel is built beside, for the images)
and ``load.txt`` (Locust, in an environment of its own). The lists come from pyproject.toml; each holds all of
``run.txt`` too. They are resolved for every Python from 3.11.0 on and every system at once (markers say what is for
whom), since a list resolved on one patch release can lack what another needs. What is pinned already stays, unless
``--upgrade`` is given.
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
    options = sys.argv[1:]
    _compile("run.txt", BUILD, *options)
    _compile("dev.txt", (*BUILD, *_group("dev")), "--constraint", "requirements/run.txt", *options)
    _compile("build.txt", (*BUILD, *_group("compile")), "--constraint", "requirements/dev.txt", *options)
    _compile("load.txt", (*BUILD, *_group("load")), "--constraint", "requirements/run.txt", *options)


def _group(name: str) -> list[str]:
    """A dependency group's requirements, with those of the groups that it includes."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    found: list[str] = []
    for entry in groups[name]:
        found += [entry] if isinstance(entry, str) else _group(entry["include-group"])
    return found


def _compile(name: str, more: tuple[str, ...], *options: str) -> None:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--generate-hashes"]
    command += ["--universal", "--python-version", "3.11.0", "--extra", "redis", "--extra", "tracing"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--no-header", "--no-annotate"]
    command += [*options, "--output-file", f"requirements/{name}", "pyproject.toml", "-"]
    subprocess.run(command, cwd=ROOT, input="\n".join(more), text=True, check=True)


if __name__ == "__main__":
    main()
