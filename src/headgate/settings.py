"""Every setting: its name, default and meaning, and where it may come from.

A flag beats the environment (``HEADGATE_<NAME>``; some names that people know are read bare too), which beats
``headgate.toml``, which beats the default. Only ``app`` and ``cli`` see a ``Settings``; everything below gets plain
values. docs/configuration.md is checked against this file by a test.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import tomllib
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from headgate.relay.reply import FinalEvent

PREFIX = "HEADGATE_"
BARE = frozenset(
    (
        *("max_active", "queue_mode", "queue_max", "queue_timeout_s", "request_timeout_s"),
        "otel_exporter_otlp_endpoint",
    )
)
WIDESPREAD = frozenset(
    (
        *("host", "port", "model", "engine", "served_model_name", "cache_dir", "redis_url", "trusted_proxies"),
        *("cors_origins", "max_connections", "log_level", "log_format", "preempt", "shed", "final_event"),
    )
)
"""Names that other programs read too: without the prefix they say nothing of what was meant for us."""
FILE = "headgate.toml"
SIMULATED_MODEL = "headgate-simulated"

_UNITS = {"": 1, "b": 1, "k": 1024, "kb": 1000, "kib": 1024, "m": 1024**2, "mb": 1000**2, "mib": 1024**2}
_UNITS |= {"g": 1024**3, "gb": 1000**3, "gib": 1024**3}


class SettingsError(Exception):
    """A setting that can't be: one line that names it, the value, and what it takes."""


class Engine(StrEnum):
    """Which kind of engine is behind the gateway."""

    AUTO = "auto"
    VLLM = "vllm"
    SIMULATED = "simulated"
    REMOTE = "remote"


def _bytes(value: object) -> object:
    if not isinstance(value, str):
        return value
    digits = value.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = value.strip()[len(digits) :].strip().lower()
    if not (digits.isascii() and digits.isdigit()) or unit not in _UNITS:
        raise ValueError("a number of bytes, such as 33554432 or 32MiB")
    return int(digits) * _UNITS[unit]


def _auto_or_number(value: object) -> object:
    return None if value is None or str(value).strip().lower() == "auto" else value


def _off(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == "off" else value


def _list(value: object) -> object:
    """Comma-separated, or the list that the file has."""
    if isinstance(value, list):
        value = ",".join(map(str, value))
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _origins(value: object) -> object:
    parts = _list(value)
    if not isinstance(parts, tuple):
        return value
    origins = tuple(str(part).lower() for part in parts)
    for origin in origins:
        if origin != "*" and not re.match(r"[a-z][a-z0-9+.-]*://[^\s/?#@\\*]+\Z", origin):
            raise ValueError("origins, comma-separated, such as https://chat.example, or *")
    return origins


def _level(value: str) -> str:
    if value.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError("one of debug, info, warning, error")
    return value.lower()


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(value: object) -> object:
    parts = _list(value)
    if not isinstance(parts, tuple):
        return value
    try:
        return tuple(ipaddress.ip_network(part, strict=False) for part in parts)
    except ValueError:
        raise ValueError("addresses or networks, comma-separated, such as 10.0.0.0/8") from None


def _http_url(value: str | None) -> str | None:
    if value is not None and not re.match(r"https?://[^\s/]+\S*\Z", value):
        raise ValueError("a URL that begins with http:// or https://")
    return value


def _visible(value: str | None) -> str | None:
    if value is not None and not re.match(r"[\x21-\x7e]+\Z", value):
        raise ValueError("visible ASCII characters, with no space among them")
    return value


def _quoted(value: str) -> str:
    try:
        shlex.split(value)
    except ValueError as error:
        raise ValueError(f"quoted as for a shell, and isn't ({str(error).lower()})") from None
    return value


def _sendable(value: str | None) -> str | None:
    if value is not None and not re.match(r"[^\x00-\x20\x7f]([^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?\Z", value):
        raise ValueError("what a header can carry: no line ends, and no space at its ends")
    return value


def _redis_url(value: str | None) -> str | None:
    if value is not None and not re.match(r"(rediss?|unix)://", value):
        raise ValueError("a URL that begins with redis://, rediss:// or unix://")
    return value


def _expanded(path: Path | None) -> Path | None:
    """With the user's home for ``~``: a shell leaves it in `--cache-dir=~/x`, and systemd everywhere."""
    return None if path is None else Path(os.path.expanduser(path))


def _caches() -> Path:
    """The user's folder for what can be made again.

    Where the user has no home (a container under a made-up number) it is one that can't be written: the gateway then
    remembers nothing, and `headgate check` says so.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    home = os.path.expanduser("~")
    return Path(given) if given else Path(os.devnull if home == "~" else home, ".cache")


Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Dollars = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None
MaybeSeconds = Annotated[Seconds | None, BeforeValidator(_off)]
MaybeMilliseconds = Annotated[
    Annotated[float, Field(gt=0, le=86_400_000, allow_inf_nan=False)] | None, BeforeValidator(_off)
]
ShortMilliseconds = Annotated[Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | None, BeforeValidator(_off)]


_SOURCES: ContextVar[tuple[Mapping[str, str], Path]] = ContextVar("sources", default=({}, Path(FILE)))


class Settings(BaseSettings):
    """The settings of ``headgate serve``. Units are in the names; seconds may be fractions."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=False)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one and prints it.")
    model: str | None = Field(None, description="Model id or path for the engine (also the argument of `serve`).")
    served_model_name: str | None = Field(None, description="The name clients use for the model.")
    engine: Engine = Field(
        Engine.AUTO,
        description="`auto`, `vllm`, `simulated` or `remote`. `auto`: ENGINE_URLS means remote, a MODEL means vllm, "
        "neither means simulated.",
    )
    engine_urls: Annotated[tuple[str, ...], BeforeValidator(_list)] = Field(
        (), description="Base URLs of engines that somebody else runs, comma-separated."
    )
    engine_command: Annotated[str, AfterValidator(_quoted)] = Field(
        "vllm", description="The vLLM executable, which may live in an environment of its own."
    )
    engine_args: Annotated[str, AfterValidator(_quoted)] = Field(
        "", description="Arguments passed on to the engine unchanged, quoted as for a shell."
    )
    engine_keep: bool = Field(
        False,
        description="The engine outlives the gateway, and the next one takes it over; `headgate stop-engine` ends it.",
    )
    engine_api_key: Annotated[str | None, AfterValidator(_visible)] = Field(
        None,
        description="Key that engines ask for; one that is started gets a random one where none is set.",
        repr=False,
    )
    max_active: Annotated[Annotated[int, Field(ge=1, le=1_000_000)] | None, BeforeValidator(_auto_or_number)] = Field(
        None,
        description="Slots per engine: a number, or `auto`: as many as serve best under SLO_*, found while it runs, "
        "from the engine's own max-num-seqs down; 8 where that is not known.",
    )
    queue_mode: Literal["queue", "reject"] = Field("queue", description="`queue` waits for a slot, `reject` refuses.")
    queue_max: int = Field(64, ge=0, le=10_000_000, description="How many may wait.")
    queue_max_bytes: Bytes = Field(256 * 1024**2, description="How many bytes those who wait may keep in memory.")
    queue_timeout_s: Seconds = Field(30.0, description="Longest wait for a slot.")
    queue_order: Literal["fifo", "priority", "fair"] = Field(
        "fair",
        description="Who is next: `fifo`; `priority`, with age; `fair`, by shares of tokens too.",
    )
    preempt: bool = Field(
        False, description="A request that was sent nothing yet may be put back in line for one of a higher priority."
    )
    shed: bool = Field(False, description="Refuse some by chance before the line is full, the lowest priority first.")
    request_timeout_s: Seconds = Field(300.0, description="Longest a whole request may take, waking excluded.")
    wake_timeout_s: Seconds = Field(300.0, description="Longest wait for an engine to become ready.")
    start_timeout_s: MaybeSeconds = Field(
        None, description="Longest that a start of an engine may take, or `off`: for as long as its process lives."
    )
    drain_timeout_s: Seconds = Field(30.0, description="Longest a shutdown waits for what runs and waits.")
    drain_linger_s: float = Field(
        0.0,
        ge=0,
        le=3600,
        description="How long `/ready` says 503 before the drain ends, for load balancers.",
    )
    status_hold_s: Seconds = Field(15.0, description="Longest wait for the first event before 200 and comments go.")
    send_stall_s: Seconds = Field(30.0, description="A reader that takes nothing for so long is dropped.")
    wedged_after_s: Seconds = Field(60.0, description="Work in flight and no progress for so long is a hang.")
    final_event: FinalEvent = Field(
        FinalEvent.AUTO,
        description="Where a stream's figures go: `auto`, `data`, `comment` or `off`.",
    )
    api_key: Annotated[str | None, AfterValidator(_sendable)] = Field(
        None, min_length=1, description="The key clients must send; none: open.", repr=False
    )
    api_keys_file: Annotated[Path | None, AfterValidator(_expanded)] = Field(
        None, description="Keys with roles and limits, in TOML; read anew when it changes. `headgate keys` writes it."
    )
    admin_key: Annotated[str | None, AfterValidator(_sendable)] = Field(
        None,
        min_length=8,
        description="Key for /admin; made up if not set, and shown unless the keys file has an admin.",
        repr=False,
    )
    rate_limit_per_min: Annotated[
        Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None, BeforeValidator(_off)
    ] = Field(None, description="Requests a minute over all callers, or `off`.")
    redis_url: Annotated[str | None, AfterValidator(_redis_url)] = Field(
        None, description="Redis that several gateways share rates by.", repr=False
    )
    trusted_proxies: Annotated[
        tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...], BeforeValidator(_networks)
    ] = Field((), description="Addresses or networks whose word on clients, users and priority counts without a key.")
    ops_auth: Literal["open", "key"] = Field(
        "open", description="`key` closes the page, /docs, /metrics, /status, /engines."
    )
    slo_ttft_s: MaybeSeconds = Field(
        1.0, description="A good stream's first event comes within so long of its request's arrival, or `off`."
    )
    slo_itl_ms: MaybeMilliseconds = Field(
        100.0, description="A good stream's events are so far apart at most, on average, or `off`."
    )
    slo_latency_s: MaybeSeconds = Field(None, description="A good answer is whole within so long, or `off`.")
    gpu_price_per_hour: Dollars = Field(None, description="Dollars an hour for one engine's GPUs; none: not counted.")
    energy_price_per_kwh: Dollars = Field(None, description="Dollars per kWh that the GPUs use; none: not counted.")
    stream_interval_max: int = Field(
        8,
        ge=1,
        le=64,
        description="Tokens in one event, at most, that vLLM is asked for while its front can't keep up; 1: never.",
    )
    coalesce_ms: ShortMilliseconds = Field(
        10.0, description="Where others want its core, take what comes together, so far apart at least, or `off`."
    )
    max_body_bytes: Bytes = Field(32 * 1024**2, description="Largest request body.")
    max_head_bytes: Annotated[int, BeforeValidator(_bytes), Field(ge=1024)] = Field(
        64 * 1024, description="Largest head of a request: its line and its headers."
    )
    head_timeout_s: Seconds = Field(20.0, description="Longest a request's head may take to arrive.")
    body_timeout_s: Seconds = Field(60.0, description="Longest a request's body may take to arrive.")
    max_connections: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_auto_or_number)] = Field(
        None, description="How many connections there may be: a number, or `auto`: what the limit of open files allows."
    )
    cors_origins: Annotated[tuple[str, ...], BeforeValidator(_origins)] = Field(
        (), description="Origins of web pages that may call the gateway, comma-separated, or `*`; none: its own alone."
    )
    log_format: Literal["auto", "text", "json"] = Field("auto", description="`auto`: text on a terminal, else json.")
    log_level: Annotated[str, AfterValidator(_level)] = Field(
        "info", description="What is logged: debug, info, warning or error, and what is worse."
    )
    log_client: bool = Field(True, description="Whether a request's line in the log has its client's address.")
    otel_exporter_otlp_endpoint: Annotated[str | None, AfterValidator(_http_url)] = Field(
        None,
        description="An OpenTelemetry collector to send spans to over OTLP/HTTP, such as http://127.0.0.1:4318; "
        "none: no tracing.",
    )
    cache_dir: Annotated[Path, AfterValidator(_expanded)] = Field(
        default_factory=lambda: _caches() / "headgate",
        description="Where start-up times are remembered, and a kept engine is written down.",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: object, info: ValidationInfo) -> object:
        """A file's ``true`` would be read as 1 where a number is wanted."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("neither true nor false")
        return value

    @model_validator(mode="after")
    def _engine_fits(self) -> Settings:
        kind = self.engine_kind
        if kind is Engine.REMOTE and not self.engine_urls:
            raise ValueError("ENGINE=remote needs ENGINE_URLS, such as http://127.0.0.1:8000")
        if kind is not Engine.REMOTE and self.engine_urls:
            raise ValueError(f"ENGINE_URLS goes with ENGINE=remote, not with ENGINE={kind.value}")
        if kind is Engine.VLLM and not self.model:
            raise ValueError("ENGINE=vllm needs a MODEL, such as Qwen/Qwen2.5-0.5B-Instruct")
        if kind is Engine.SIMULATED and self.model:
            raise ValueError("ENGINE=simulated takes no MODEL: it never answers under a real model's name")
        if kind is Engine.SIMULATED and self.served_model_name and "simulated" not in self.served_model_name:
            raise ValueError("SERVED_MODEL_NAME of the simulated engine must contain the word 'simulated'")
        if self.admin_key is not None and self.admin_key == self.api_key:
            raise ValueError("ADMIN_KEY must be another than API_KEY: whoever may generate would administer")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """First wins. Where from, ``load`` says: tests give an environment of their own."""
        environ, path = _SOURCES.get()
        return init_settings, _Environment(settings_cls, environ), TomlConfigSettingsSource(settings_cls, path)

    @property
    def engine_kind(self) -> Engine:
        """The kind of engine, with ``auto`` resolved."""
        if self.engine is not Engine.AUTO:
            return self.engine
        if self.engine_urls:
            return Engine.REMOTE
        return Engine.VLLM if self.model else Engine.SIMULATED


def load(flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None = None) -> Settings:
    """Settings from all sources.

    Args:
        flags: values given on the command line, by setting name; None means not given.
        environ: the environment.
        file: the TOML file; where None, ``headgate.toml`` in the working folder if it is there.

    Raises:
        SettingsError: one line.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    path = file or Path(FILE)
    if file is not None and not file.is_file():
        raise SettingsError(f"{file}: there is no such file.")
    token = _SOURCES.set((environ, path))
    try:
        return Settings(**given)  # type: ignore[arg-type]  # strings from everywhere: validation is what it is for
    except ValidationError as error:
        raise SettingsError(_one_line(error, given, environ, path)) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: {error}.") from None
    except (RecursionError, ValueError):  # nested too deeply, a number of thousands of digits
        raise SettingsError(f"{path}: it is not TOML that anybody would write.") from None
    finally:
        _SOURCES.reset(token)


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables in ``environ`` that are settings, by setting name.

    An unknown ``HEADGATE_…`` is kept, so that a misspelt one is refused, but for what Kubernetes makes up for a
    Service called headgate. ``HEADGATE_MAX_ACTIVE`` beats a bare ``MAX_ACTIVE``.
    """
    found = {name: name.upper() for name in BARE if environ.get(name.upper())}
    for variable, text in environ.items():
        name = variable.removeprefix(PREFIX).lower()
        made_up = name.startswith(("service_", "port_")) or (name == "port" and text.startswith("tcp://"))
        # An empty variable is what `VAR=${VAR:-}` in a compose file leaves: not given. An empty key is refused instead
        # of opening the door.
        empty = not text and not name.endswith("_key")
        if variable.startswith(PREFIX) and not made_up and not empty:
            found[name] = variable
    return found


def is_secret(name: str) -> bool:
    """Whether a setting's value is for nobody's eyes."""
    return not Settings.model_fields[name].repr


def default_of(name: str) -> str:
    """A setting's default as one would write it; ``none`` where there is none."""
    field = Settings.model_fields[name]
    value = field.get_default(call_default_factory=True)
    if value is None:
        return _word_of(name) or "none"
    if _bytes in _readers(name):
        return f"{value // 1024**2}MiB" if value % 1024**2 == 0 else f"{value // 1024}KiB"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Path):
        return re.sub(f"^{re.escape(os.path.expanduser('~'))}(?=/)", "~", str(value))
    if isinstance(value, Enum):
        return str(value.value)
    return f"{value:g}" if isinstance(value, float) else str(value or "none")


def unread(environ: Mapping[str, str], given: Collection[str]) -> list[str]:
    """The variables that were meant as settings, and are not read for want of the prefix.

    They are to be told of: a key that isn't read leaves the door open, and nothing else would show it.

    Args:
        given: names of settings that were given some other way: those variables are another program's.
    """
    known = {*given, *variables(environ), *BARE, *WIDESPREAD}
    return [name.upper() for name in Settings.model_fields if environ.get(name.upper()) and name not in known]


class _Environment(PydanticBaseSettingsSource):
    """The environment, read by ``variables``."""

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self._environ = environ

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False  # all at once, in __call__

    def __call__(self) -> dict[str, Any]:
        return {name: self._environ[variable] for name, variable in variables(self._environ).items()}


def _one_line(error: ValidationError, given: Mapping[str, object], environ: Mapping[str, str], path: Path) -> str:
    first = error.errors()[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return f"{message}."
    name = str(first["loc"][0])
    if name in given:
        where = "MODEL" if name == "model" else f"--{name.replace('_', '-')}"
    else:
        where = variables(environ).get(name, f"{name} in {path}")
    if first["type"] == "extra_forbidden":
        return f"{where}: there is no such setting. `headgate serve --help-all` lists them."
    shown = "(hidden)" if is_secret(name) else repr(first["input"])
    description = Settings.model_fields[name].description
    return f"{where} = {shown}: it must {_must(first['type'], message, name)}. Its meaning: {description}"


_UNIT_WORDS = (("_ms", "milliseconds, such as 100"), ("_s", "seconds, such as 30"))


def _must(kind: str, message: str, name: str) -> str:
    """What a value that can't be would have to do, in words that go on from ``it must``."""
    if kind.startswith(("int_", "float_", "finite_")):
        word = _word_of(name)
        number = "a whole number" if kind.startswith("int_") else "a number"
        number = next((words for ending, words in _UNIT_WORDS if name.endswith(ending)), number)
        return f"be {number}" + (f", or `{word}`" if word else "")
    if kind.startswith("bool_"):
        return "be true or false"
    for said in ("Input should ", "String should "):
        if message.startswith(said):
            return message.removeprefix(said)
    return f"be {message}"


def _word_of(name: str) -> str | None:
    """The word that a setting of numbers takes too."""
    read_by = _readers(name)
    return "auto" if _auto_or_number in read_by else "off" if _off in read_by else None


def _readers(name: str) -> set[object]:
    return {each.func for each in Settings.model_fields[name].metadata if isinstance(each, BeforeValidator)}
