"""Compiles the modules that every request and every event goes through, where a wheel is built with
``HATCH_BUILD_HOOK_ENABLE_CUSTOM=1``: by mypyc, out of the annotations that mypy checks. Without it, and in an editable
install, the same modules are interpreted. What is in C (``relay/_express.c``) is only in such a wheel, too.

Which they are is said in pyproject.toml. Needed: a C compiler, Python's headers, and what requirements/build.txt has:
mypy and setuptools to build with, and all that the gateway imports, for its types.
"""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SETUP = """\
import sys

from mypyc.build import mypycify
from setuptools import Extension, setup

express = Extension("headgate.relay._express", ["src/headgate/relay/_express.c"], extra_compile_args=["-O2"])
setup(
    name="headgate",
    package_dir={{"": "src"}},
    ext_modules=[
        *mypycify({paths!r}, group_name="headgate", opt_level="2", debug_level="0"),
        *([express] if sys.platform == "linux" else []),  # it is made of epoll
    ],
)
"""
MYPY = """\
[mypy]
ignore_missing_imports = True
mypy_path = src
[mypy-httptools.*]
follow_imports = skip
"""
# httptools says of some things that may be None that they are bytes, and a compiled module would insist.


class Compiled(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or version == "editable":
            return
        self._place = Path(tempfile.mkdtemp(prefix="headgate-compiled-"))
        shutil.copytree(
            Path(self.root, "src"), self._place / "src", ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
        paths = [f"src/headgate/{name}.py" for name in self.config["modules"]]
        (self._place / "setup.py").write_text(SETUP.format(paths=paths))
        (self._place / "mypy.ini").write_text(MYPY)
        built = self._place / "lib"
        argv = [sys.executable, "setup.py", "build_ext", "--build-lib", str(built)]
        run = subprocess.run(argv, cwd=self._place, capture_output=True, text=True, check=False)
        if run.returncode:
            self.clean_up()
            raise SystemExit(
                f"{run.stdout}{run.stderr}\nheadgate: the modules could not be compiled (the reason is above)"
            )
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        for path in built.rglob(f"*{suffix}"):
            build_data["force_include"][str(path)] = str(path.relative_to(built))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self.clean_up()

    def clean_up(self) -> None:
        if place := getattr(self, "_place", None):
            shutil.rmtree(place, ignore_errors=True)
