"""The looks that are plain functions of what was read."""

from __future__ import annotations

from pathlib import Path

import pytest

from headgate.workbench.check import fit, machine, vllm
from headgate.workbench.check.finding import GIB, MIB, Verdict, size, some
from headgate.workbench.check.weights import Config
from tests.workbench.running import script

QWEN = Config(num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, hidden_size=896)


def test_a_small_model_fits_and_the_sum_is_told() -> None:
    finding = fit.describe(GIB, "sizes of *.safetensors", QWEN, 24 * GIB, fit.wishes([]))
    assert finding.verdict is Verdict.OK
    assert "1 GiB of weights (sizes of *.safetensors) in 22.1 GiB, which is 92% of the GPU's 24 GiB" in finding.what
    assert "at 12 KiB (config.json)" in finding.what


def test_a_model_larger_than_the_gpu_fails_unless_it_is_shared_or_made_smaller() -> None:
    def verdict(*args: str) -> Verdict:
        return fit.describe(40 * GIB, "files", QWEN, 24 * GIB, fit.wishes(args)).verdict

    assert verdict() is Verdict.FAIL
    assert verdict("--tensor-parallel-size", "4") is Verdict.OK
    assert verdict("-tp", "4") is Verdict.OK
    assert verdict("--quantization=fp8") is Verdict.WARN


def test_a_context_longer_than_the_kv_cache_warns_with_one_that_fits() -> None:
    long = Config(num_hidden_layers=32, num_attention_heads=32, hidden_size=4096, max_position_embeddings=131072)
    finding = fit.describe(15 * GIB, "files", long, 24 * GIB, fit.wishes([]))
    assert finding.verdict is Verdict.WARN
    assert "--max-model-len" in finding.mend
    enough = fit.wishes(["--max-model-len", "8192"])
    assert fit.describe(15 * GIB, "files", long, 24 * GIB, enough).verdict is Verdict.OK


def test_a_latent_kv_cache_is_reckoned_as_one_and_a_hybrid_is_not_guessed() -> None:
    latent = Config(num_hidden_layers=10, num_attention_heads=16, kv_lora_rank=512, qk_rope_head_dim=64)
    assert fit.kv_bytes_per_token(latent, None) == 10 * 576 * 2
    hybrid = Config(num_hidden_layers=2, num_attention_heads=4, hidden_size=64, layer_types=["sliding_attention"] * 2)
    assert fit.kv_bytes_per_token(hybrid, None) is None


def test_available_memory_is_what_the_container_leaves() -> None:
    meminfo = "MemTotal:  100 kB\nMemAvailable:   8388608 kB\n"
    assert machine.available_memory(meminfo, "max\n", 5) == 8 * GIB
    assert machine.available_memory(meminfo, str(4 * GIB), GIB) == 3 * GIB
    assert machine.available_memory(None, None, None) is None


def test_a_low_limit_of_open_files_says_how_many_clients_it_is_for() -> None:
    finding = machine.open_files(4096, a_client=2)
    assert finding.verdict is Verdict.WARN
    assert "about 1,900 clients" in finding.what
    assert "LimitNOFILE=65536" in finding.mend
    assert "about 1,200 clients" in machine.open_files(4096, a_client=3).what
    assert machine.open_files(65536).verdict is Verdict.OK
    assert machine.open_files(-1).verdict is Verdict.OK


def test_dockers_own_dev_shm_is_too_small_for_several_gpus() -> None:
    assert machine.shared_memory(64 * MIB, 2, container=True).verdict is Verdict.FAIL
    assert machine.shared_memory(64 * MIB, 1, container=True).verdict is Verdict.WARN
    assert machine.shared_memory(64 * MIB, 2, container=False).verdict is Verdict.OK


def test_windows_is_sent_to_wsl() -> None:
    assert "WSL" in machine.system("Windows", "11", "AMD64").mend


def test_a_cache_folder_that_cannot_be_made_warns(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert machine.cache_folder(tmp_path / "file" / "headgate").verdict is Verdict.WARN
    assert machine.cache_folder(tmp_path / "not" / "yet").verdict is Verdict.OK


@pytest.mark.parametrize(("said", "verdict"), [("0.32.0", "ok"), ("0.11.2", "warn"), ("0.1.dev77+g1a2b3c", "ok")])
def test_an_old_vllm_warns_and_a_build_from_source_is_trusted(tmp_path: Path, said: str, verdict: str) -> None:
    command = str(script(tmp_path, "my-vllm", f"echo {said}"))
    found = vllm.look(command)
    assert found is not None
    assert (found.version, vllm.describe(found, command).verdict) == (said, verdict)


def test_a_vllm_that_says_no_version_warns_and_one_that_is_not_there_fails(tmp_path: Path) -> None:
    command = str(script(tmp_path, "my-vllm", "exit 1"))
    assert vllm.describe(vllm.look(command), command).verdict is Verdict.WARN
    missing = vllm.describe(vllm.look("no-such-vllm"), "no-such-vllm")
    assert missing.verdict is Verdict.FAIL
    assert "HEADGATE_ENGINE_COMMAND" in missing.mend


def test_numbers_are_said_as_a_person_would() -> None:
    assert [size(n) for n in (12, 12 * 1024, 1.5 * GIB, 138.9 * GIB)] == ["12 bytes", "12 KiB", "1.5 GiB", "139 GiB"]
    assert [some(n) for n in (9, 412, 15_312, 1_234_567)] == ["9", "410", "15,000", "1,200,000"]
