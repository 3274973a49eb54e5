"""The Hugging Face hub and its cache on this machine: what is in the cache, and what a download would take.

The folders and variables are those of ``huggingface_hub``, read here so that it need not be installed beside the
gateway. One question goes to the hub itself, and only for a model that isn't in the cache. It ends at findings.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from headgate.workbench.check.finding import Finding, fail, ok, size, warn
from headgate.workbench.check.machine import existing
from headgate.workbench.check.remote import why_silent

_TIMEOUT_S = 6.0
_TRUE = ("1", "on", "yes", "true")


class _File(msgspec.Struct):
    rfilename: str
    size: int | None = None


class _Card(msgspec.Struct):
    gated: bool | str = False
    siblings: list[_File] = []


@dataclass(frozen=True, slots=True)
class Answer:
    """What the hub says of a model; ``silent`` is why it says nothing."""

    status: int = 0
    gated: bool = False
    weights_bytes: int | None = None
    silent: str | None = None


def cache_folder(environ: Mapping[str, str], download_dir: list[str] | None) -> Path:
    """Where models are kept."""
    if download_dir:
        return Path(download_dir[0])
    if said := environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE"):
        return _expanded(said)
    return _home(environ) / "hub"


def snapshot(cache: Path, model: str, revision: str) -> Path | None:
    """The folder of a model in the cache, if its config.json is there."""
    base = cache / f"models--{model.replace('/', '--')}"
    ref = base / "refs" / revision
    commit = ref.read_text().strip() if ref.is_file() else revision
    folder = base / "snapshots" / commit
    return folder if (folder / "config.json").is_file() else None


def offline(environ: Mapping[str, str]) -> bool:
    """Whether the engine is told to download nothing."""
    return any(environ.get(name, "").lower() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def token(environ: Mapping[str, str]) -> str | None:
    """The token that a download would use: from the environment, or from ``hf auth login``."""
    if said := environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN"):
        return said
    said = environ.get("HF_TOKEN_PATH")
    file = _expanded(said) if said else _home(environ) / "token"
    try:
        return file.read_text().strip() or None
    except OSError:
        return None


def ask(model: str, revision: str, environ: Mapping[str, str]) -> Answer:
    """Ask the hub (or the mirror in HF_ENDPOINT) whether it has the model, and how large it is."""
    base = (environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    own = token(environ)
    try:
        said = httpx.get(
            f"{base}/api/models/{model}/revision/{revision}",
            params={"blobs": "true"},
            headers={"authorization": f"Bearer {own}"} if own else {},
            timeout=_TIMEOUT_S,
            follow_redirects=True,
        )
        if said.status_code != 200:
            return Answer(status=said.status_code)
        card = msgspec.json.decode(said.content, type=_Card, strict=False)
    except (httpx.HTTPError, httpx.InvalidURL, msgspec.MsgspecError) as error:
        why = why_silent(error) if isinstance(error, httpx.HTTPError) else str(error)
        return Answer(silent=f"{base}: {why}")
    top = [file for file in card.siblings if "/" not in file.rfilename]
    for ending in (".safetensors", ".bin", ".gguf"):
        if sizes := [file.size or 0 for file in top if file.rfilename.endswith(ending)]:
            return Answer(200, bool(card.gated), sum(sizes) or None)
    return Answer(200, bool(card.gated))


def describe(answer: Answer, model: str, cache: Path, own: str | None) -> tuple[list[Finding], int | None]:
    """What a start with this model would do, and how many bytes it would fetch."""
    if answer.silent is not None:
        what = f"{model} is not in {cache}, and the hub can't be asked for it: {answer.silent}"
        return [
            fail("model", what, "See the network (HTTPS_PROXY), name a mirror in HF_ENDPOINT, or give a folder.")
        ], None
    known = "HF_TOKEN is set" if own else "no HF_TOKEN is set"
    if answer.status != 200:
        there = "is private there, or does not exist" if answer.status in (401, 403, 404) else "is not given out"
        what = f"{model} is not in {cache}, and {there} (the hub says {answer.status}; {known})"
        return [fail("model", what, "See the spelling; for a private one set HF_TOKEN.")], None
    n_bytes = answer.weights_bytes
    free = shutil.disk_usage(existing(cache)).free
    amount = size(n_bytes) if n_bytes else "an amount that the hub doesn't tell"
    said = f"{model} is not here yet: {amount} will be downloaded to {cache} ({size(free)} free)"
    if n_bytes is not None and free < n_bytes:
        return [fail("model", said, "Make room, or put the cache elsewhere with HF_HOME.")], n_bytes
    if answer.gated:
        terms = f"Accept its terms at https://huggingface.co/{model}"
        if own is None:
            return [fail("model", f"{said}; it is gated, and {known}", f"{terms}, then set HF_TOKEN.")], n_bytes
        return [warn("model", f"{said}; it is gated", f"{terms} with the account of your HF_TOKEN.")], n_bytes
    return [ok("model", f"{said}; {known}")], n_bytes


def _home(environ: Mapping[str, str]) -> Path:
    caches = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(environ.get("HF_HOME") or f"{caches}/huggingface")


def _expanded(path: str) -> Path:
    """With the user's home in it, where the user has one: ``Path.expanduser`` raises where not."""
    return Path(os.path.expanduser(path))
