"""The model: where it is, whether all of it is there, and what it would take to fetch it.

A folder, a file, or an id on the Hugging Face hub, looked for the way vLLM does: a path first, then the cache, then
the hub. It ends at ``Model``, with findings and what ``fit`` needs; loading anything is the engine's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headgate.pool.launchers import options
from headgate.workbench.check import hub
from headgate.workbench.check.finding import Finding, Verdict, fail, ok, size, warn
from headgate.workbench.check.weights import Config, Weights, read_config, weights_in

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_STORES = ("s3://", "gs://", "az://", "http://", "https://")


@dataclass(frozen=True, slots=True)
class Model:
    """What is known of it; ``weights_bytes`` and ``how`` (where that number is from) as far as one can tell."""

    findings: list[Finding]
    config: Config = field(default_factory=Config)
    weights_bytes: int | None = None
    how: str = ""
    download_bytes: int | None = None
    downloads: bool = False


def look(model: str, args: Sequence[str], environ: Mapping[str, str]) -> Model:
    """Look for it."""
    path = Path(model)
    if path.is_file():
        return _file(path)
    if path.is_dir():
        return _folder(path, args)
    if model.startswith(_STORES):
        return Model([warn("model", f"{model} is looked at by nobody before the engine does", _streamer(args))])
    if model.startswith((".", "/", "~")) or _ID.fullmatch(model) is None:
        mend = "Give the folder of a model, or its id on the hub, such as Qwen/Qwen2.5-0.5B-Instruct."
        return Model([fail("model", f"{model} is not there, and is no id on the hub", mend)])
    return _on_the_hub(model, args, environ)


def _streamer(args: Sequence[str]) -> str:
    if options(args, "--load-format"):
        return "See that the credentials of the store are in the environment."
    return "From object storage vLLM loads with --engine-args '--load-format runai_streamer'."


def _file(path: Path) -> Model:
    n_bytes = path.stat().st_size
    if path.suffix != ".gguf":
        return Model([fail("model", f"{path} is a file, and no GGUF", "Give the folder that it is in.")])
    with path.open("rb") as file:
        whole = file.read(4) == b"GGUF"
    if not whole:
        return Model([fail("model", f"{path} doesn't begin as a GGUF file does", "Download it again.")])
    said = f"{path}, a GGUF file of {size(n_bytes)}"
    mend = "vLLM reads GGUF only by way of trial; llama.cpp's llama-server is made for it."
    return Model([warn("model", said, mend)], weights_bytes=n_bytes, how="the file's size")


def _folder(path: Path, args: Sequence[str]) -> Model:
    if not (path / "config.json").is_file():
        inside = sorted(p.name for p in path.glob("*.gguf"))
        mend = f"Give {path / inside[0]}." if inside else "Give the folder that config.json is in."
        return Model([fail("model", f"{path} is a folder with no config.json", mend)])
    weights = weights_in(path)
    finding = _complete(str(path), path, weights, args)
    return Model([finding], read_config(path), weights.n_bytes or None, f"{weights.what} in {path.name}")


def _complete(name: str, folder: Path, weights: Weights, args: Sequence[str]) -> Finding:
    """Whether everything that a start reads is in the folder."""
    if weights.pointers:
        mend = "In that folder: git lfs pull."
        return fail("model", f"{name}: {weights.pointers[0]} is a Git LFS pointer, not the weights themselves", mend)
    if weights.missing:
        among = f"{len(weights.missing)} of {weights.expected} weight files"
        return fail("model", f"{name}: {among} are missing ({weights.missing[0]}, …)", "Download it again: it resumes.")
    if not weights.n_bytes and options(args, "--load-format") != ["dummy"]:
        return fail("model", f"{name} has no weights (*.safetensors, *.bin)", "Download it again.")
    said = f"{name} is here, {size(weights.n_bytes)} of weights"
    if not any((folder / part).exists() for part in ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json")):
        return warn("model", f"{said}, but no tokenizer", "Copy its tokenizer there, or give one with --tokenizer.")
    return ok("model", said)


def _on_the_hub(model: str, args: Sequence[str], environ: Mapping[str, str]) -> Model:
    cache = hub.cache_folder(environ, options(args, "--download-dir"))
    revision = (options(args, "--revision") or ["main"])[0]
    folder = hub.snapshot(cache, model, revision)
    if folder is not None:
        weights = weights_in(folder)
        finding = _complete(f"{model} in {cache}", folder, weights, args)
        config = read_config(folder)
        if finding.verdict is not Verdict.FAIL:
            return Model([finding], config, weights.n_bytes or None, f"{weights.what} in the cache")
        if hub.offline(environ):
            mend = "Unset HF_HUB_OFFLINE once, so that the rest is downloaded."
            return Model([fail("model", f"{finding.what}, and offline mode is set", mend)], config)
    elif hub.offline(environ):
        mend = "Unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE) for the download, or give a folder."
        return Model([fail("model", f"{model} is not in {cache}, and offline mode is set", mend)])
    card = hub.ask(model, revision, environ)
    findings, wanted = hub.describe(card, model, cache, hub.token(environ))
    how = "the hub's file sizes"
    return Model(findings, weights_bytes=wanted, how=how, download_bytes=wanted, downloads=True)
