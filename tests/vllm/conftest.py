"""A real vLLM for these tests: named by HEADGATE_TEST_VLLM, else they are skipped. One start costs about 40 s."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.vllm.running import Gateway

VARIABLE = "HEADGATE_TEST_VLLM"

StartGateway = Callable[..., Gateway]


@pytest.fixture(scope="session")
def vllm_command() -> str:
    """The vllm command to test with."""
    named = os.environ.get(VARIABLE)
    if not named:
        pytest.skip(f"no real vLLM: {VARIABLE} does not name a vllm command (make test-vllm makes one and sets it)")
    found = shutil.which(named)
    if found is None:
        pytest.fail(f"{VARIABLE}={named} is no command that can be run")
    return str(Path(found).absolute())  # the gateway is started in a folder of its own


@pytest.fixture(scope="session")
def tiny_model(vllm_command: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that any CPU can serve, made by vLLM's own Python in a second."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    python = Path(vllm_command).parent / "python"
    maker = Path(__file__).parent / "make_model.py"
    subprocess.run([python, maker, folder], check=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def start_gateway(
    vllm_command: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartGateway]:
    """Starts gateways, ``start_gateway(max_active=4)``; at the end each is ended and may leave no process behind."""
    with ExitStack() as stack:

        def start(**settings: object) -> Gateway:
            folder = tmp_path_factory.mktemp("gateway")
            return stack.enter_context(closing(Gateway(vllm_command, tiny_model, folder, settings)))

        yield start
