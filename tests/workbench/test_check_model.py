from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from headgate.workbench.check import model
from headgate.workbench.check.finding import Finding, Verdict

CONFIG = {"model_type": "qwen2", "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 128}


def a_model(folder: Path, **files: bytes | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    given: dict[str, bytes | None] = {
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": b"w" * 4096,
    }
    for name, content in (given | files).items():
        if content is not None:
            (folder / name).write_bytes(content)
    return folder


def look(name: object, *args: str, **environ: str) -> tuple[Finding, model.Model]:
    found = model.look(str(name), args, environ)
    [finding] = found.findings
    return finding, found


def test_a_whole_folder_is_found_with_the_size_of_its_weights(tmp_path: Path) -> None:
    finding, found = look(a_model(tmp_path))
    assert finding.verdict is Verdict.OK
    assert (found.weights_bytes, found.config.num_hidden_layers) == (4096, 2)


def test_a_cut_download_is_told_by_the_index_of_its_shards(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    parts = {"model.safetensors": None, "model-1.safetensors": b"w" * 2000}
    a_model(tmp_path, **parts, **{"model.safetensors.index.json": json.dumps(index).encode()})
    finding, _ = look(tmp_path)
    assert finding.verdict is Verdict.FAIL
    assert "1 of 2 weight files are missing (model-2.safetensors" in finding.what


def test_a_git_lfs_pointer_is_not_taken_for_weights(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    finding, _ = look(a_model(tmp_path, **{"model.safetensors": pointer}))
    assert finding.verdict is Verdict.FAIL
    assert "git lfs pull" in finding.mend


def test_a_path_that_is_not_there_fails(tmp_path: Path) -> None:
    finding, _ = look(tmp_path / "nothing")
    assert finding.verdict is Verdict.FAIL


def test_a_gguf_file_says_that_vllm_is_not_made_for_it(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(100))
    finding, _ = look(tmp_path / "m.gguf")
    assert finding.verdict is Verdict.WARN
    (tmp_path / "m.gguf").write_bytes(b"<html>")
    assert look(tmp_path / "m.gguf")[0].verdict is Verdict.FAIL


def test_a_model_in_the_cache_needs_no_network(tmp_path: Path) -> None:
    base = tmp_path / "hub" / "models--Qwen--Tiny"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text("abc")
    a_model(base / "snapshots" / "abc")
    finding, found = look("Qwen/Tiny", HF_HOME=str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9")
    assert finding.verdict is Verdict.OK
    assert not found.downloads


def test_offline_with_no_model_in_the_cache_fails(tmp_path: Path) -> None:
    finding, _ = look("Qwen/Tiny", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert finding.verdict is Verdict.FAIL
    assert "HF_HUB_OFFLINE" in finding.mend


@pytest.fixture
def hub() -> Iterator[str]:
    """A hub with one open and one gated model."""
    siblings = [{"rfilename": "model.safetensors", "size": 3 * 1024**3}, {"rfilename": "README.md", "size": 9}]
    cards = {"Qwen/Tiny": {"gated": False, "siblings": siblings}, "meta/Gated": {"gated": "manual", "siblings": []}}

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/api/models/").partition("/revision/")[0]
            body = json.dumps(cards.get(name, {})).encode()
            self.send_response(200 if name in cards else 401)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_model_on_the_hub_is_told_with_the_size_of_its_download(tmp_path: Path, hub: str) -> None:
    finding, found = look("Qwen/Tiny", HF_HOME=str(tmp_path), HF_ENDPOINT=hub)
    assert finding.verdict is Verdict.OK
    assert "3 GiB will be downloaded" in finding.what
    assert "no HF_TOKEN is set" in finding.what
    assert (found.downloads, found.download_bytes) == (True, 3 * 1024**3)


def test_a_gated_model_fails_with_no_token_and_warns_with_one(tmp_path: Path, hub: str) -> None:
    where = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": hub}
    assert look("meta/Gated", **where)[0].verdict is Verdict.FAIL
    assert look("meta/Gated", **where, HF_TOKEN="hf_x")[0].verdict is Verdict.WARN


def test_a_misspelt_id_fails(tmp_path: Path, hub: str) -> None:
    finding, _ = look("Qwen/Tinny", HF_HOME=str(tmp_path), HF_ENDPOINT=hub)
    assert finding.verdict is Verdict.FAIL
    assert "does not exist" in finding.what


def test_a_hub_that_cannot_be_reached_fails_and_names_the_mirror_setting(tmp_path: Path) -> None:
    finding, _ = look("Qwen/Tiny", HF_HOME=str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9")
    assert finding.verdict is Verdict.FAIL
    assert "HF_ENDPOINT" in finding.mend
