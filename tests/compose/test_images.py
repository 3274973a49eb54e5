"""What is in the gateway's own image, and what isn't; the stacks that it runs in are in the other files."""

from __future__ import annotations

import pytest

from headgate import __version__
from tests.compose import bases
from tests.compose.bases import ROOT, pinned
from tests.compose.engine import Engine

pytestmark = pytest.mark.compose

WHERE_THE_ROAD_IS = "import headgate.errand as road; print(road.__file__)"
IMPORTED_TO_BUILD = """
import importlib.util
print([name for name in ("mypy", "mypyc", "setuptools", "hatchling", "pip") if importlib.util.find_spec(name)])
"""
RUN_TO_BUILD = """
import os, shutil
print([name for name in ("gcc", "cc", "as", "ld", "/opt/build") if shutil.which(name) or os.path.exists(name)])
"""


def inside(engine: Engine, image: str, *command: str) -> str:
    """What a command of the gateway's environment says in a container of an image."""
    program, *arguments = command
    asked = ("run", "--rm", "--network=none", f"--entrypoint=/opt/headgate/bin/{program}", image, *arguments)
    return engine.docker(*asked).strip()


def test_road_is_compiled_in_the_image_and_the_version_says_so(docker: Engine) -> None:
    assert inside(docker, "headgate:local", "python", "-c", WHERE_THE_ROAD_IS).endswith(".so")
    assert inside(docker, "headgate:local", "headgate", "--version") == f"headgate {__version__} (compiled)"


def test_nothing_that_compiles_or_installs_is_left_in_the_image(docker: Engine) -> None:
    assert inside(docker, "headgate:local", "python", "-c", IMPORTED_TO_BUILD) == "[]"
    assert inside(docker, "headgate:local", "python", "-c", RUN_TO_BUILD) == "[]"


def test_image_is_interpreted_where_that_is_asked_for(docker: Engine) -> None:
    asked = ("--file=compose/Dockerfile", "--build-arg=COMPILED=", "--tag=headgate:interpreted")
    bases.build(docker, *asked, str(ROOT))
    assert inside(docker, "headgate:interpreted", "python", "-c", WHERE_THE_ROAD_IS).endswith("errand.py")
    assert inside(docker, "headgate:interpreted", "headgate", "--version") == f"headgate {__version__}"


@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.gpu"])
def test_a_word_that_is_neither_yes_nor_no_builds_nothing(docker: Engine, file: str) -> None:
    with pytest.raises(AssertionError, match="COMPILED is 1, 0 or empty, and not yes"):
        build_stage(docker, file, "COMPILED=yes")


def test_engine_image_that_cannot_compile_says_what_it_lacks(docker: Engine) -> None:
    with pytest.raises(AssertionError, match=r"(?s)gcc: not found.*--build-arg COMPILED= does without"):
        build_stage(docker, "Dockerfile.gpu")


def build_stage(engine: Engine, file: str, *given: str) -> None:
    """The stage of a Dockerfile that makes the gateway's environment, on a Python without a compiler."""
    if file == "Dockerfile.gpu":
        given = (*given, f"VLLM_IMAGE={pinned()['python']}")
    arguments = (f"--build-arg={one}" for one in given)
    bases.build(engine, f"--file=compose/{file}", "--target=build", *arguments, str(ROOT))
