from __future__ import annotations

import pytest

from headgate.workbench.top.machine import cost_text, gpu_lines, money
from headgate.workbench.top.picture import Cost, Engine, Gpu, Gpus, Status
from tests.workbench.test_top_frame import BUSY, drawn, frame

GIB = 2**30
H100 = Gpu("0", "NVIDIA H100 80GB HBM3", 0.37, 60 * GIB, 80 * GIB, 54.0, 350.4, 700.0)


def told(status: Status, room: int = 8) -> list[tuple[str, str]]:
    return [(label, text.plain) for label, text in gpu_lines(status, 120, room, plain=True)]


def test_a_gpu_has_a_row_with_all_that_it_reports() -> None:
    [(label, text)] = told(Status("1", True, gpu=Gpus("ok", gpus=[H100])))
    assert label == "gpu 0"
    assert text == "######.......... 37% busy   60 GiB of 80 GiB   54 °C   350 of 700 W   NVIDIA H100 80GB HBM3"


def test_what_a_gpu_does_not_report_is_left_out() -> None:
    [(_, text)] = told(Status("1", True, gpu=Gpus("ok", gpus=[Gpu("0:1", "H100 MIG", power_w=30.0)])))
    assert text == "30 W   H100 MIG"


def test_no_gpu_is_told_only_where_an_engine_needs_one() -> None:
    none = Gpus("unavailable", "the NVIDIA driver is not loaded")
    assert told(Status("1", True, engines=[Engine("e0", "simulated", "ready")], gpu=none)) == []
    [(_, text)] = told(Status("1", True, engines=[Engine("e0", "vllm", "ready")], gpu=none))
    assert text == "unavailable: the NVIDIA driver is not loaded"


def test_a_lost_gpu_is_told_above_those_that_are_left() -> None:
    rows = told(Status("1", True, gpu=Gpus("unavailable", "GPU 1 (NVIDIA H100): GPU is lost", [H100])))
    assert [label for label, _ in rows] == ["gpu", "gpu 0"]


def test_many_gpus_leave_room_for_the_engines() -> None:
    many = [Gpu(str(n), "H100", n / 10, temperature_c=50.0 + n) for n in range(8)]
    rows = told(Status("1", True, gpu=Gpus("ok", gpus=many)), room=2)
    assert rows[1] == ("", "and 7 more, at most 70% busy, at most 57 °C")
    engines = [Engine("e0", "vllm", "ready", slots=8)]
    lines = drawn(frame(Status("1", True, engines=engines, gpu=Gpus("ok", gpus=many), cost=Cost({"gpu": 1.0}))))
    assert len(lines) <= 24
    assert any(line.startswith("e0 ") for line in lines)


def test_money_is_told_by_kind_and_by_the_million_tokens() -> None:
    text = cost_text(Cost({"gpu": 8.2, "idle": 3.1, "energy": None}, 2.314)).plain
    assert text == "$11.30 since the start, $2.31 per million tokens   gpu $8.20, idle $3.10"


def test_a_gateway_with_no_price_or_no_gpu_has_no_such_rows() -> None:
    assert not [line for line in drawn(frame(BUSY)) if line.startswith(("gpu", "cost"))]


@pytest.mark.parametrize(
    ("dollars", "text"), [(0, "$0.00"), (0.001, "<$0.01"), (0.42, "$0.42"), (999.5, "$999.50"), (1234.4, "$1,234")]
)
def test_small_and_large_sums_can_be_read(dollars: float, text: str) -> None:
    assert money(dollars) == text
