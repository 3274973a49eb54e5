"""Infrastructure Health: GPUs, the gateway's process, and whether what is seen can be believed."""

from __future__ import annotations

from monitoring.grafana.boards.shared import cpu, gpu_memory, gpu_power, gpu_temperature, gpu_use, loop_lag, memory
from monitoring.grafana.page import Board, Row, Section
from monitoring.grafana.panels import BLUE, GREEN, RED, YELLOW, Query, course, figure, states
from monitoring.grafana.queries import GATEWAY, gpu, series

JOBS = 'job=~"headgate|vllm|dcgm|prometheus"'

GATEWAYS_DOWN = figure(
    "Gateways down",
    "Gateways that Prometheus can't reach. Red: the process is gone, or doesn't answer.",
    f'count(up{{job="headgate",{GATEWAY}}} == 0) or vector(0)',
    "none",
    {1: RED},
    texts={0: "none"},
)

GPUS_SEEN = figure(
    "GPUs seen",
    "GPUs that NVIDIA's exporter or the gateway reports. Red, with GPUs in the machine: the "
    "driver doesn't answer; nvidia-smi and dmesg (Xid) say why.",
    f"count({gpu('DCGM_FI_DEV_GPU_TEMP', 'gpu_temperature_celsius')}) or vector(0)",
    "none",
    {0: RED, 1: "green"},
    base=RED,
)

HOTTEST_GPU = figure(
    "Hottest GPU",
    "The hottest core. Yellow: clocks begin to fall on most cards. Red: on all; look at fans and airflow.",
    f"max({gpu('DCGM_FI_DEV_GPU_TEMP', 'gpu_temperature_celsius')})",
    "celsius",
    {80: YELLOW, 90: RED},
    empty="no GPU",
    decimals=0,
)

GPU_ERRORS = figure(
    "GPU errors",
    "The last Xid that any GPU reported, 0 for none, by NVIDIA's exporter. Red: look the "
    "number up in NVIDIA's list of Xids; 48, 63, 64, 79, 94 and 95 ask for a new card.",
    "max(DCGM_FI_DEV_XID_ERRORS)",
    "none",
    {1: RED},
    texts={0: "none"},
    empty="no exporter",
)

POWER = figure(
    "Power",
    "What all GPUs draw together; the host and its fans are not in it.",
    f"sum({gpu('DCGM_FI_DEV_POWER_USAGE', 'gpu_power_watts')})",
    "watt",
    empty="no GPU",
    decimals=0,
)

RULES_THAT_FAIL = figure(
    "Rules that fail",
    "Evaluations of rules that failed in an hour. Red: alerts can't be relied upon; "
    "Prometheus' page of rules says which.",
    "sum(increase(prometheus_rule_evaluation_failures_total[1h]))",
    "none",
    {1: RED},
    texts={0: "none"},
    decimals=0,
)

CLOCKS = course(
    "Clocks",
    "SM clock of each GPU, by NVIDIA's exporter. A fall under load is heat or the power "
    "limit: tokens come slower with nothing else wrong.",
    [
        Query(
            "max by (gpu, UUID) (DCGM_FI_DEV_SM_CLOCK) * 1e6",
            "GPU {{gpu}}",
        )
    ],
    "hertz",
)

GPU_TIME = course(
    "What the GPU's time is spent on",
    "Share of time in which tensor cores and memory were busy. Memory high, tensor low: decoding. Both low: it waits "
    "for the host. Empty: the exporter needs SYS_ADMIN and a data centre card for these.",
    [
        Query(
            "avg by (gpu, UUID) (DCGM_FI_PROF_PIPE_TENSOR_ACTIVE)",
            "GPU {{gpu}} tensor cores",
        ),
        Query("avg by (gpu, UUID) (DCGM_FI_PROF_DRAM_ACTIVE)", "GPU {{gpu}} memory"),
    ],
    "percentunit",
    maximum=1,
)

GPU_FAULTS = course(
    "GPU faults",
    "Memory rows that were replaced and PCIe transfers that were repeated, by NVIDIA's "
    "exporter. Rows that can't be replaced any more: change the card.",
    [
        Query(
            "sum by (gpu, UUID) (increase(DCGM_FI_DEV_PCIE_REPLAY_COUNTER[1h]))",
            "GPU {{gpu}} PCIe repeats in 1 h",
        ),
        Query(
            "max by (gpu, UUID) (DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS)",
            "GPU {{gpu}} rows replaced",
        ),
        Query(
            "max by (gpu, UUID) (DCGM_FI_DEV_ROW_REMAP_FAILURE)",
            "GPU {{gpu}} replacing failed",
            RED,
        ),
    ],
    "none",
    soft_maximum=5,
    decimals=0,
)

ENERGY = course(
    "Energy",
    "Energy that each GPU used, in an hour at the present rate.",
    [
        Query(
            "max by (gpu, UUID) (rate(DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
            "[$__rate_interval]) / 1000) or on (UUID) max by (gpu, UUID) (label_replace("
            f"rate({series('gpu_energy_joules_total')}[$__rate_interval]) * on (instance, "
            f"gpu) group_left (uuid) {series('gpu_info')}, "
            '"UUID", "$1", "uuid", "(.+)"))',
            "GPU {{gpu}}",
        )
    ],
    "watth",
)

WHAT_IS_SCRAPED = states(
    "What is scraped",
    "Each target of Prometheus. An engine is down here while it isn't ready; dcgm where no "
    "exporter runs. A gateway that is down is a page.",
    [
        Query(
            f"max by (job, instance, engine) (up{{{JOBS}}})",
            "{{job}} {{engine}} {{instance}}",
        )
    ],
    {0: ("down", RED), 1: ("up", GREEN)},
)

TIME_OF_A_SCRAPE = course(
    "Time of a scrape",
    "How long each target takes to answer; at the red line Prometheus gives up, since it scrapes anew after 5 s.",
    [Query(f"max by (job) (scrape_duration_seconds{{{JOBS}}})", "{{job}}")],
    "s",
    {1: YELLOW, 5: RED},
    log=True,
    minimum=None,
)

SERIES = course(
    "Series",
    "Series in Prometheus' memory, and those that each job brings. A rise without end is a "
    "label that a caller can fill: report it.",
    [
        Query("sum(prometheus_tsdb_head_series)", "all", BLUE),
        Query(f"sum by (job) (scrape_samples_post_metric_relabeling{{{JOBS}}})", "{{job}}"),
    ],
    "short",
    log=True,
    minimum=None,
)

BOARD = Board(
    uid="headgate-infrastructure",
    title="Headgate / Infrastructure Health",
    description="GPUs, the gateway's process, and whether Prometheus sees all of it.",
    sections=[
        Section(
            None,
            [
                Row(
                    4,
                    [
                        (4, GATEWAYS_DOWN),
                        (4, GPUS_SEEN),
                        (4, HOTTEST_GPU),
                        (4, GPU_ERRORS),
                        (4, POWER),
                        (4, RULES_THAT_FAIL),
                    ],
                )
            ],
        ),
        Section(
            "GPUs (NVIDIA's exporter; the gateway's own figures where it isn't)",
            [
                Row(8, [(8, gpu_use()), (8, gpu_memory()), (8, gpu_temperature())]),
                Row(8, [(8, gpu_power()), (8, CLOCKS), (8, GPU_TIME)]),
                Row(7, [(12, GPU_FAULTS), (12, ENERGY)]),
            ],
        ),
        Section("The gateway's process", [Row(7, [(8, cpu()), (8, memory()), (8, loop_lag())])]),
        Section("Monitoring itself", [Row(8, [(12, WHAT_IS_SCRAPED), (6, TIME_OF_A_SCRAPE), (6, SERIES)])]),
    ],
)
