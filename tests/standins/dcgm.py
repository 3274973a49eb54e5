"""NVIDIA's exporter with no GPU: a real HTTP server that says what dcgm-exporter says, in its words.

Names, labels and types are those of dcgm-exporter 4.5 with its default counters (``etc/default-counters.csv``), the
memory's temperature included that a card without the sensor reports as a number of nineteen digits, and the labels by
which each Xid is a series of its own.

with dcgm_exporter({"0": "GPU-1"}) as port:
    ...
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NOT_SUPPORTED = 9223372036854775794
GAUGES: Mapping[str, tuple[str, float]] = {
    "DCGM_FI_DEV_SM_CLOCK": ("SM clock frequency (in MHz).", 1980),
    "DCGM_FI_DEV_MEM_CLOCK": ("Memory clock frequency (in MHz).", 2619),
    "DCGM_FI_DEV_MEMORY_TEMP": ("Memory temperature (in C).", NOT_SUPPORTED),
    "DCGM_FI_DEV_GPU_TEMP": ("GPU temperature (in C).", 61),
    "DCGM_FI_DEV_POWER_USAGE": ("Power draw (in W).", 512.4),
    "DCGM_FI_DEV_GPU_UTIL": ("GPU utilization (in %).", 87),
    "DCGM_FI_DEV_MEM_COPY_UTIL": ("Memory utilization (in %).", 44),
    "DCGM_FI_DEV_XID_ERRORS": ("Value of the last XID error encountered.", 31),
    "DCGM_FI_DEV_FB_FREE": ("Framebuffer memory free (in MiB).", 6100),
    "DCGM_FI_DEV_FB_USED": ("Framebuffer memory used (in MiB).", 74900),
    "DCGM_FI_DEV_FB_RESERVED": ("Framebuffer memory reserved (in MiB).", 559),
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": ("Whether remapping of rows has failed", 0),
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": ("Ratio of time the graphics engine is active.", 0.86),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": ("Ratio of cycles the tensor (HMMA) pipe is active.", 0.21),
    "DCGM_FI_PROF_DRAM_ACTIVE": (
        "Ratio of cycles the device memory interface is active sending or receiving data.",
        0.58,
    ),
}
COUNTERS: Mapping[str, tuple[str, float]] = {
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("Total energy consumption since boot (in mJ).", 250_000),
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": ("Total number of PCIe retries.", 1),
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": ("Number of remapped rows for uncorrectable errors", 1),
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": ("Number of remapped rows for correctable errors", 1),
}
"""Each with what it grows by from one scrape to the next."""


def page(gpus: Mapping[str, str], scrape: int) -> str:
    """What the exporter says at its so-many-th scrape of these GPUs (index to UUID)."""
    lines = []
    for kind, fields in (("gauge", GAUGES), ("counter", COUNTERS)):
        for name, (help_, value) in fields.items():
            lines += [f"# HELP {name} {help_}", f"# TYPE {name} {kind}"]
            for gpu, uuid in gpus.items():
                labels = (
                    f'gpu="{gpu}",UUID="{uuid}",pci_bus_id="00000000:{int(gpu) + 1:02X}:00.0",device="nvidia{gpu}",'
                    f'modelName="NVIDIA H100 80GB HBM3",hostname="gpu-box",DCGM_FI_DRIVER_VERSION="570.133.07"'
                )
                if name == "DCGM_FI_DEV_XID_ERRORS":
                    labels += f',err_code="{value}",err_msg="GPU memory page fault"'
                lines.append(f"{name}{{{labels}}} {value * scrape if kind == 'counter' else value:g}")
    return "\n".join(lines) + "\n"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    gpus: Mapping[str, str]
    scrapes = 0


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.scrapes += 1
        body = page(self.server.gpus, self.server.scrapes).encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  http.server's name
        """Nothing is written to stderr."""


@contextmanager
def dcgm_exporter(gpus: Mapping[str, str]) -> Iterator[int]:
    """An exporter of these GPUs (index to UUID) on a free port of loopback: its port."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.gpus = gpus
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
