"""``headgate check``: what ``headgate serve`` with the same arguments would do on this machine, before it does it.

The order of the looks, the sentence at the end, and the exit status are decided here; each look is a file of its own
that ends at findings. Nothing is started, downloaded or written.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from headgate import settings as settings_
from headgate import told_version
from headgate.pool.launchers.vllm import VllmLauncher
from headgate.settings import PREFIX, SIMULATED_MODEL, Engine, Settings, SettingsError
from headgate.workbench.check import extras, fit, gpu, machine, port, remote, report, vllm
from headgate.workbench.check import model as model_
from headgate.workbench.check.finding import Finding, Verdict, fail, ok, size, warn

WORKS = 0
FAILS = 1
BAD_SETTINGS = 2


def run(model: str | None, flags: Mapping[str, object], as_json: bool, config: Path | None = None) -> int:
    """Look, print, and give the exit status: 0 it will work, 1 something fails, 2 the settings are bad.

    Args:
        model: the argument of ``serve``.
        flags: its flags by setting name; None means not given.
        as_json: print one JSON object.
        config: the settings file.
    """
    console = Console(quiet=as_json, highlight=False)
    look = Look(model, flags, os.environ, config)
    console.print(f"Headgate {told_version()} looks at this machine for `{look.command}`\n", style="bold", markup=False)
    findings = report.show(console, look.findings())
    sentence, status = look.sentence(findings), look.status(findings)
    if as_json:
        sys.stdout.write(report.as_json(findings, sentence, status, look.command) + "\n")
    else:
        report.show_sentence(console, sentence, report.worst(findings))
    return status


class Look:
    """One look at this machine, for one ``serve``."""

    def __init__(
        self, model: str | None, flags: Mapping[str, object], environ: Mapping[str, str], config: Path | None = None
    ) -> None:
        self._environ = environ
        self._flags = {name for name, value in flags.items() if value is not None}
        self._bad: Finding | None = None
        self._settings = Settings.model_construct()
        self._will: list[str] = []
        self.command = _command(model, flags)
        try:
            self._settings = settings_.load({"model": model, **flags}, environ, config)
        except SettingsError as error:
            self._bad = fail("settings", str(error), "`headgate serve --help-all` shows what each setting takes.")

    def findings(self) -> Iterator[Finding]:
        """Everything there is to look at, each as soon as it is seen."""
        if self._bad is not None:
            yield self._bad
            yield from self._unread()
            yield from machine.look(self._settings.cache_dir, self._environ, with_vllm=False, gpus_used=0)
            return
        settings = self._settings
        kind = settings.engine_kind
        yield ok("settings", f"engine {kind.value}, {_because(settings)}{_given(settings)}")
        yield from self._unread()
        args = shlex.split(settings.engine_args)
        wish = fit.wishes(args)
        with_vllm = kind is Engine.VLLM
        yield from machine.look(settings.cache_dir, self._environ, with_vllm=with_vllm, gpus_used=wish.gpus)
        if with_vllm:
            yield from self._vllm(settings, args, wish)
        else:
            yield gpu.mention(gpu.look(self._environ))
        if kind is Engine.REMOTE:
            yield from remote.look(settings.engine_urls, settings.engine_api_key)
        elif kind is Engine.SIMULATED:
            name = settings.served_model_name or SIMULATED_MODEL
            yield ok("engine", f"SIMULATED: it makes up text as `{name}`, with no GPU and no model")
        yield port.look(settings.host, settings.port)
        yield from extras.look(settings.redis_url, settings.otel_exporter_otlp_endpoint)
        ops_open = settings.ops_auth == "open"
        yield port.open_door(settings.host, settings.api_key, settings.api_keys_file, ops_open=ops_open)

    def _unread(self) -> Iterator[Finding]:
        ignored = settings_.unread(self._environ, {*self._settings.model_fields_set, *self._flags})
        if ignored:
            yield warn(
                "settings",
                f"not read from the environment, where settings begin with {PREFIX}: {', '.join(ignored)}",
                f"Set {', '.join(f'{PREFIX}{name}' for name in ignored)}.",
            )

    def _vllm(self, settings: Settings, args: list[str], wish: fit.Wishes) -> Iterator[Finding]:
        assert settings.model is not None
        try:
            VllmLauncher(settings.model, (), tuple(args), settings.engine_command)
        except ValueError as error:
            yield fail("settings", str(error), "It is ENGINE_ARGS or ENGINE_COMMAND that says so.")
            return
        found = vllm.look(settings.engine_command)
        cpu_build = found is not None and found.cpu_build
        gpus = gpu.look(self._environ)
        model = model_.look(settings.model, args, self._environ)
        yield from gpu.describe(
            gpus,
            cpu_build=cpu_build,
            wanted=wish.gpus,
            share=0.0 if wish.tells_bytes else wish.share,
            least=fit.least(model.weights_bytes, wish),
        )
        if cpu_build and not wish.tells_bytes and "VLLM_CPU_KVCACHE_SPACE" not in self._environ:
            yield fit.kv_cache_in_ram(wish)
        yield vllm.describe(found, settings.engine_command)
        yield from model.findings
        totals = [g.total for g in gpus.visible[: wish.gpus] if g.total is not None]
        if model.weights_bytes and totals and not cpu_build:
            yield fit.describe(model.weights_bytes, model.how, model.config, min(totals), wish)
        version = f" {found.version}" if found and found.version else ""
        where = "CPUs" if cpu_build else ", ".join(g.name for g in gpus.visible[: wish.gpus])
        self._will = [f"start vLLM{version}{f' on {where}' if where else ''}"]
        if model.downloads:
            amount = f"{size(model.download_bytes)} are" if model.download_bytes else "the model is"
            self._will.append(f"load {settings.model} once {amount} downloaded")
        else:
            self._will.append(f"load {settings.model}")

    def sentence(self, findings: Sequence[Finding]) -> str:
        """What ``serve`` would do here now."""
        failed = [finding for finding in findings if finding.verdict is Verdict.FAIL]
        if failed:
            names = ", ".join(dict.fromkeys(finding.name for finding in failed))
            return f"`{self.command}` would not work here now: see FAIL at {names}."
        settings = self._settings
        kind = settings.engine_kind
        will = list(self._will)
        if kind is Engine.REMOTE:
            will.append(f"pass requests on to {', '.join(settings.engine_urls)}")
        elif kind is Engine.SIMULATED:
            will.append("answer with made-up text")
        warned = sum(finding.verdict is Verdict.WARN for finding in findings)
        but = f" ({warned} warning{'s' if warned > 1 else ''} above)" if warned else ""
        where = f"{settings.host}:{settings.port}" if settings.port else f"a free port of {settings.host}"
        return f"`{self.command}` would {_joined([f'listen on {where}', *will])}{but}."

    def status(self, findings: Sequence[Finding]) -> int:
        """The exit status."""
        if self._bad is not None:
            return BAD_SETTINGS
        return FAILS if report.worst(findings) is Verdict.FAIL else WORKS


def _joined(parts: list[str]) -> str:
    return " and ".join(parts) if len(parts) < 3 else f"{', '.join(parts[:-1])}, and {parts[-1]}"


def _because(settings: Settings) -> str:
    if settings.engine is not Engine.AUTO:
        return "as ENGINE says"
    if settings.engine_urls:
        return "since there are ENGINE_URLS"
    return f"since MODEL is {settings.model}" if settings.model else "since neither MODEL nor ENGINE_URLS is given"


def _given(settings: Settings) -> str:
    names = sorted(name.upper() for name in settings.model_fields_set)
    return f"; set: {', '.join(names)}" if names else ""


def _command(model: str | None, flags: Mapping[str, object]) -> str:
    words = ["headgate", "serve", *([model] if model else [])]
    for name, value in flags.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", "…" if settings_.is_secret(name) else str(value)]
    return " ".join(word if word == "…" else shlex.quote(word) for word in words)
