"""The NVIDIA driver, asked about the engine's GPUs through NVML.

Every call here may block: tens of milliseconds where all is well, for good where the driver hangs. So only the
thread of ``gpu`` calls it. A field that a GPU doesn't report is None and the rest stays; a GPU that answers nothing
any more keeps its place, with the reason. It ends at ``Reading``s; what is shown of them is in ``gpu``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pynvml


class Unavailable(Exception):
    """There is no GPU to be read, and why, in plain words."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One GPU at one moment; None is what it doesn't report.

    ``index`` is ``nvidia-smi``'s, for a MIG slice the card's and its own: ``0:1``. ``energy_j`` counts since the
    driver was loaded. ``failure`` says why nothing could be read.
    """

    index: str
    uuid: str = ""
    name: str = ""
    utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    energy_j: float | None = None
    failure: str | None = None


@dataclass(slots=True)
class _Device:
    index: str
    handle: Any
    uuid: str
    name: str
    failure: str | None = None


_GONE = (
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED,
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_GPU_NOT_FOUND,
)
"""Errors that are the whole GPU's; any other is one field's (some laptops say "unknown error" to the power alone)."""

_WORDS = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver is installed here (libnvidia-ml.so.1 was not found)",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver was updated while it ran: a reboot mends it",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not ask the NVIDIA driver",
    pynvml.NVML_ERROR_GPU_IS_LOST: "it has fallen off the bus (GPU is lost): a reset or a reboot mends it",
    pynvml.NVML_ERROR_RESET_REQUIRED: "it needs a reset",
}


class Driver:
    """NVML, for one thread.

    Args:
        chosen: CUDA_VISIBLE_DEVICES, as the engine gets it; None where it isn't set.
    """

    def __init__(self, chosen: str | None) -> None:
        self._chosen = chosen
        self._devices: list[_Device] = []
        self.version = ""

    def open(self) -> None:
        """Find the GPUs, anew each time: a driver may come, a lost GPU may come back.

        Raises:
            Unavailable: there is none.
        """
        self.close()
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise Unavailable(_words(error)) from None
        try:
            self.version = str(pynvml.nvmlSystemGetDriverVersion())
            self._devices = list(self._find())
        except pynvml.NVMLError as error:
            raise Unavailable(_words(error)) from None

    def close(self) -> None:
        """Let NVML go."""
        self._devices = []
        with contextlib.suppress(pynvml.NVMLError):  # not initialised: there is nothing to let go
            pynvml.nvmlShutdown()

    def read(self) -> tuple[Reading, ...]:
        """All of them, now."""
        return tuple(map(_read, self._devices))

    def _find(self) -> Iterator[_Device]:
        count = pynvml.nvmlDeviceGetCount()
        if not count:
            raise Unavailable("the NVIDIA driver sees no GPU")
        cards = [_card(index) for index in range(count)]
        names = visible(self._chosen, {index: card.uuid for index, card in enumerate(cards)})
        found = [cards[name] if isinstance(name, int) else _slice(name) for name in names]
        if not any(found):
            raise Unavailable(f"CUDA_VISIBLE_DEVICES={self._chosen} names none of the {count} GPUs here")
        yield from filter(None, found)


def visible(chosen: str | None, uuids: Mapping[int, str]) -> list[int | str]:
    """Which GPUs an engine sees, in its order: indexes, or for a slice of one its MIG name.

    CUDA's rules: the first word that names none ends the list, and a UUID may be cut short as long as it is one
    GPU's. Numbers are taken in the driver's order, which is CUDA's own where the cards are alike, or with
    CUDA_DEVICE_ORDER=PCI_BUS_ID.

    Args:
        chosen: CUDA_VISIBLE_DEVICES; None where it isn't set.
        uuids: of the cards, by the driver's index.
    """
    if chosen is None:
        return list(uuids)
    found: dict[int | str, None] = {}  # a card named twice is one card
    for word in (part.strip() for part in chosen.split(",")):
        if word.startswith("MIG-"):
            found[word] = None
            continue
        match = [i for i, uuid in uuids.items() if word and (str(i) == word or uuid.startswith(word))]
        if len(match) != 1:
            break
        found[match[0]] = None
    return list(found)


def _card(index: int) -> _Device:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        return _Device(str(index), handle, *_names(handle))
    except pynvml.NVMLError as error:
        return _Device(str(index), None, "", "", _words(error))


def _slice(uuid: str) -> _Device | None:
    """A MIG slice; None where the driver has none of that name."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        card = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        index = f"{pynvml.nvmlDeviceGetIndex(card)}:{pynvml.nvmlDeviceGetIndex(handle)}"
        return _Device(index, handle, *_names(handle))
    except pynvml.NVMLError:
        return None


def _names(handle: Any) -> tuple[str, str]:
    return _told(pynvml.nvmlDeviceGetUUID, handle) or "", _told(pynvml.nvmlDeviceGetName, handle) or ""


def _read(device: _Device) -> Reading:
    if device.failure is not None:
        return Reading(device.index, device.uuid, device.name, failure=device.failure)
    handle = device.handle
    try:
        rates = _told(pynvml.nvmlDeviceGetUtilizationRates, handle)
        memory = _told(_memory, handle)
        celsius = _told(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
        power_mw = _told(pynvml.nvmlDeviceGetPowerUsage, handle)
        limit_mw = _told(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        energy_mj = _told(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)
    except pynvml.NVMLError as error:
        return Reading(device.index, device.uuid, device.name, failure=_words(error))
    return Reading(
        device.index,
        device.uuid,
        device.name,
        utilization=None if rates is None else rates.gpu / 100,
        memory_used_bytes=None if memory is None else memory.used,
        memory_total_bytes=None if memory is None else memory.total,
        temperature_c=celsius,
        power_w=None if power_mw is None else power_mw / 1e3,
        power_limit_w=None if limit_mw is None else limit_mw / 1e3,
        energy_j=None if energy_mj is None else energy_mj / 1e3,
    )


def _memory(handle: Any) -> Any:
    """As ``nvidia-smi`` counts it, without what the driver keeps for itself; before 510 that can't be told apart."""
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except pynvml.NVMLError_FunctionNotFound:
        return pynvml.nvmlDeviceGetMemoryInfo(handle)


def _told(ask: Callable[..., Any], handle: Any, *more: Any) -> Any:
    """What a GPU answers; None where it doesn't report that. Raises what is the whole GPU's trouble."""
    try:
        return ask(handle, *more)
    except pynvml.NVMLError as error:
        if error.value in _GONE:
            raise
        return None


def _words(error: Any) -> str:
    return _WORDS.get(error.value, f"the NVIDIA driver says: {error}")
