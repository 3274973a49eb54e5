"""A real vLLM on the CPU beside its client: on two cores ``overload.cores`` says who runs where, and why.

Without root the figures of two cores are not to be trusted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.overhead.bench import free_ports
from loadtest.overload import engines

LIMITS = {"max_num_seqs": 16, "max_model_len": 8192}
LIMIT_FLAGS = ["--max-num-seqs=16", "--max-model-len=8192", "--num-gpu-blocks=8192", "--block-size=128"]
"""The same and the size of its KV cache of 1 GiB, for the simulated engine."""
LAYERS = 2


@contextmanager
def vllm(command: Path, folder: Path) -> Iterator[str]:
    """A running vLLM with the tests' tiny model; its URL.

    Raises:
        NotStarted: it can't be.
    """
    limits = [f"--{name.replace('_', '-')}={value}" for name, value in LIMITS.items()]
    args = " ".join(["--dtype float32 --enforce-eager", *limits])
    (port,) = free_ports(1)
    engine = engines.start("vllm", args, port, folder, command, LAYERS)
    try:
        yield f"http://127.0.0.1:{engine.port}"
    finally:
        engine.process.stop()
