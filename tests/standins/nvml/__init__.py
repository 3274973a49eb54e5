"""A driver's ``libnvidia-ml.so.1`` whose readings a test sets while a real process reads them.

    nvml = standin(tmp_path)
    nvml.gpu(0, utilization=37, power_mw=350_000)
    with gateway(engine, env=nvml.env) as gate:
        nvml.set({"0.power_mw": 420_000})

The C file beside this one says which keys there are. It is compiled once in a run of the tests; where there is no C
compiler the test is skipped.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

Value = int | str | None

GIB = 2**30
H100: Mapping[str, Value] = {
    "name": "NVIDIA H100 80GB HBM3",
    "utilization": 37,
    "memory_total": 80 * GIB,
    "memory_used": 60 * GIB,
    "temperature": 54,
    "power_mw": 350_000,
    "power_limit_mw": 700_000,
    "energy_mj": 1_000_000,
}
"""What a GPU says where nothing else is asked for."""


class Standin:
    """The stand-in's file, and the environment of a process that is to use it."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self._said: dict[str, Value] = {"driver": "570.133.07", "count": 0}
        before = os.environ.get("LD_LIBRARY_PATH")
        self.env = {
            "LD_LIBRARY_PATH": f"{library.parent}{os.pathsep + before if before else ''}",
            "NVML_STANDIN": str(file),
            # What a developer's own shell may have; a test that wants one sets it.
            "CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in range(16)),
        }
        self._write()

    def gpu(self, index: int, **readings: Value) -> Standin:
        """Another H100, with these readings instead of its own; None: it doesn't report that one."""
        count = self._said["count"]
        assert isinstance(count, int)
        self._said["count"] = max(count, index + 1)
        said: dict[str, Value] = {"uuid": f"GPU-{index:08x}-0000-0000-0000-000000000000", **H100, **readings}
        return self.set({f"{index}.{name}": value for name, value in said.items()})

    def set(self, values: Mapping[str, Value]) -> Standin:
        """From now on these are the answers; None takes a key out."""
        self._said.update(values)
        return self._write()

    def fail(self, key: str, code: int) -> Standin:
        """From now on this is answered with an error of NVML's."""
        return self.set({key: f"!{code}"})

    def _write(self) -> Standin:
        """In one step: a reader sees the old file or the new one."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text("".join(f"{key}={value}\n" for key, value in self._said.items() if value is not None))
        fresh.replace(self._file)
        return self


def standin(folder: Path) -> Standin:
    """A stand-in that knows no GPU yet; its file is in ``folder``. Skips the test where nothing can be compiled."""
    return Standin(_library(), folder / "nvml")


@cache
def _library() -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc) for the stand-in of the GPU driver's library")
    folder = Path(tempfile.mkdtemp(prefix="nvml-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / "libnvidia-ml.so.1"
    source = Path(__file__).with_name("nvml.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-Wl,-soname,libnvidia-ml.so.1"]
    done = subprocess.run([*command, "-o", library, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library
