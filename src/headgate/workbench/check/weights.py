"""A model's folder, as far as its size goes: its weight files, those that should be there, and its config.json.

It ends at plain numbers. Nothing is loaded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

_POINTER = b"version https://git-lfs"
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


@dataclass(frozen=True, slots=True)
class Weights:
    """The weight files of one folder: ``missing`` are named in its index, ``pointers`` stand for files of Git LFS."""

    n_bytes: int = 0
    what: str = ""
    expected: int = 0
    missing: tuple[str, ...] = ()
    pointers: tuple[str, ...] = ()


class Config(msgspec.Struct):
    """The few numbers of a config.json from which the size of the KV cache follows; None where it has none."""

    model_type: str | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    hidden_size: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int | None = None
    kv_lora_rank: int | None = None
    qk_rope_head_dim: int | None = None
    layer_types: list[str] | None = None
    torch_dtype: str | None = None
    dtype: str | None = None


class _Index(msgspec.Struct):
    weight_map: dict[str, str] = {}


def weights_in(folder: Path) -> Weights:
    """The files that vLLM would load: safetensors, or else PyTorch's."""
    expected: set[str] = set()
    for name in _INDEXES:
        if (folder / name).is_file():
            try:
                expected = set(msgspec.json.decode((folder / name).read_bytes(), type=_Index).weight_map.values())
            except (OSError, msgspec.MsgspecError):
                expected = set()
            break
    kind = next((k for k in ("*.safetensors", "*.bin") if any(folder.glob(k))), "*.safetensors")
    # ``exists`` follows the cache's links: one that leads nowhere is a download that was cut.
    files = [file for file in sorted(folder.glob(kind)) if file.exists()]
    there = {file.name for file in files}
    missing = tuple(sorted(expected - there))
    pointers = tuple(file.name for file in files if file.stat().st_size < 1024 and _is_pointer(file))
    n_bytes = sum(file.stat().st_size for file in files if not expected or file.name in expected)
    return Weights(n_bytes, f"sizes of {kind}", len(expected), missing, pointers)


def read_config(folder: Path) -> Config:
    """The language model's part of config.json; empty where it can't be read."""
    try:
        content: dict[str, Any] = msgspec.json.decode((folder / "config.json").read_bytes(), type=dict[str, Any])
        part = content.get("text_config")
        return msgspec.convert(part if isinstance(part, dict) else content, Config)
    except (OSError, msgspec.MsgspecError):
        return Config()


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as opened:
        return os.pread(opened.fileno(), len(_POINTER), 0) == _POINTER
