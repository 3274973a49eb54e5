from __future__ import annotations

from pathlib import Path

from headgate.workbench.check import gpu
from headgate.workbench.check.finding import GIB, Finding, Verdict
from tests.workbench.running import nvidia_smi, script

RTX = "0, GPU-aa, NVIDIA GeForce RTX 4090, 24564, 24100, 570.133.07"


def found(
    folder: Path, wanted: int = 1, share: float = 0.92, least: int | None = None, **environ: str
) -> list[Finding]:
    gpus = gpu.look({"PATH": str(folder), **environ})
    return list(gpu.describe(gpus, cpu_build=False, wanted=wanted, share=share, least=least))


def test_a_free_gpu_is_named_with_its_memory_and_driver(tmp_path: Path) -> None:
    [finding] = found(nvidia_smi(tmp_path, RTX))
    assert finding.verdict is Verdict.OK
    assert finding.what == "0: NVIDIA GeForce RTX 4090, 23.5 GiB of 24 GiB free, driver 570.133.07; nobody else on it"


def test_a_gpu_with_less_free_than_vllm_takes_fails_and_says_who_has_the_rest(tmp_path: Path) -> None:
    busy = RTX.replace("24100", "15000")
    [finding] = found(nvidia_smi(tmp_path, busy, "GPU-aa, 4711, /opt/conda/bin/python, 9120"))
    assert finding.verdict is Verdict.FAIL
    assert "python (pid 4711, 8.91 GiB) on it" in finding.what
    assert "vLLM wants 92% of it" in finding.what
    assert "--gpu-memory-utilization 0.60" in finding.mend


def test_a_smaller_share_is_not_offered_where_the_model_would_not_fit_in_it(tmp_path: Path) -> None:
    [finding] = found(nvidia_smi(tmp_path, RTX.replace("24100", "15000")), least=15 * GIB)
    assert finding.mend == "End who has the rest."


def test_a_smaller_share_makes_the_same_gpu_do(tmp_path: Path) -> None:
    [finding] = found(nvidia_smi(tmp_path, RTX.replace("24100", "15000")), share=0.6)
    assert finding.verdict is Verdict.OK


def test_no_gpu_fails_and_points_to_the_simulated_and_remote_engines(tmp_path: Path) -> None:
    [finding] = found(tmp_path)
    assert finding.verdict is Verdict.FAIL
    assert "simulated" in finding.mend
    assert "--engine-urls" in finding.mend


def test_a_broken_driver_is_told_in_its_own_words(tmp_path: Path) -> None:
    script(tmp_path, "nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    [finding] = found(tmp_path)
    assert finding.verdict is Verdict.FAIL
    assert "Driver/library version mismatch" in finding.what


def test_hidden_gpus_are_not_counted(tmp_path: Path) -> None:
    two = f"{RTX}\n{RTX.replace('0, GPU-aa', '1, GPU-bb')}"
    [finding] = found(nvidia_smi(tmp_path, two), CUDA_VISIBLE_DEVICES="GPU-bb")
    assert finding.what.startswith("1: ")
    [none] = found(tmp_path, CUDA_VISIBLE_DEVICES="")
    assert (none.verdict, none.what) == (Verdict.FAIL, "CUDA_VISIBLE_DEVICES hides all 2")


def test_a_mig_slice_is_not_called_hidden(tmp_path: Path) -> None:
    [finding] = found(nvidia_smi(tmp_path, RTX), CUDA_VISIBLE_DEVICES="MIG-5c89852c")
    assert (finding.verdict, finding.what) == (Verdict.WARN, "a MIG slice, MIG-5c89852c")


def test_more_gpus_asked_for_than_there_are_fails(tmp_path: Path) -> None:
    findings = found(nvidia_smi(tmp_path, RTX), wanted=2)
    assert [finding.verdict for finding in findings] == [Verdict.FAIL, Verdict.OK]
    assert findings[0].what == "1 visible, and ENGINE_ARGS ask for 2"


def test_a_gpu_that_does_not_tell_its_memory_is_taken_as_it_is(tmp_path: Path) -> None:
    [finding] = found(nvidia_smi(tmp_path, "0, GPU-aa, NVIDIA GB10, [N/A], [N/A], 580.82"))
    assert finding.verdict is Verdict.OK
    assert "memory not told" in finding.what


def test_the_memory_of_a_gpu_is_read_in_mebibytes(tmp_path: Path) -> None:
    [card] = gpu.look({"PATH": str(nvidia_smi(tmp_path, RTX.replace("24564", "24576")))}).visible
    assert card.total == 24 * GIB
