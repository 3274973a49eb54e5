"""API_KEYS_FILE from outside: who gets in, what each may do, and that a changed file counts at once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import run as run_process

import pytest

from headgate.keys import edit, store
from headgate.keys.records import hash_of, new_secret
from tests.simulated import Engine
from tests.wire.client import MODEL, Reply, chat
from tests.wire.gateway import Gateway, gateway, wait_until
from tests.wire.test_refusals import check

ADMIN = "an-admin-key-of-the-settings"


class KeysFile:
    """A keys file of a test's own, changed as ``headgate keys`` does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.secrets: dict[str, str] = {}

    def add(self, name: str, **fields: object) -> str:
        secret = self.secrets[name] = new_secret()
        store.change(self.path, lambda text: edit.add(text, name, {"hash": hash_of(secret), **fields}))
        return secret


@contextmanager
def keyed(engine: Engine | str, keys: KeysFile, *flags: str, ready: bool = True) -> Iterator[Gateway]:
    """A gateway with this file."""
    with gateway(
        engine, "--api-keys-file", str(keys.path), "--admin-key", ADMIN, "--ops-auth", "key", *flags, ready=ready
    ) as gate:
        gate.authorize(ADMIN)
        yield gate
        said = gate.log() + gate.get("/metrics").text + gate.get("/status").text
        assert not [name for name, secret in keys.secrets.items() if secret in said], "a secret was told"
        assert not [name for name, secret in keys.secrets.items() if hash_of(secret)[7:] in said], "a hash was told"


@pytest.fixture
def keys(tmp_path: Path) -> KeysFile:
    return KeysFile(tmp_path / "keys.toml")


def ask(gate: Gateway, secret: str, **fields: object) -> Reply:
    return gate.ask(chat(**fields), authorization=f"Bearer {secret}")  # type: ignore[arg-type]


def test_each_key_is_let_in_and_is_the_label_of_what_it_does(engine: Engine, keys: KeysFile) -> None:
    a, b = keys.add("team-a"), keys.add("team-b")
    with keyed(engine, keys, "--api-key", "the-old-one") as gate:
        for secret, name in ((a, "team-a"), (b, "team-b"), ("the-old-one", "default"), (ADMIN, "admin")):
            reply = gate.ask(x_api_key=secret, x_request_id=f"of-{name}")
            assert reply.status == 200
            assert not [header for header in reply.headers if header.startswith("x-ratelimit")]
            gate.until_counted(1, key=name, status="200")
            assert gate.logged(f"of-{name}")["key"] == name
        for wrong in ("", "hg-", a[:-1], a + "x", a.swapcase()):
            check(gate.ask(x_api_key=wrong), "unauthorized")
        assert gate.get("/v1/models", x_api_key=a).status_code == 200


def test_what_the_file_says_of_the_key_of_the_settings_counts(engine: Engine, keys: KeysFile) -> None:
    """It went on with no limits, as `default`: whoever wrote limits for the one key that all had wrote them in vain."""
    secret = keys.add("everybody", requests_per_min=0.1, requests_burst=1)
    with keyed(engine, keys, "--api-key", secret) as gate:
        assert [ask(gate, secret).status for _ in range(2)] == [200, 429]
        gate.until_counted(1, key="everybody", status="200")


def test_roles_open_what_they_are_for_and_nothing_else(engine: Engine, keys: KeysFile) -> None:
    user, ops, admin = keys.add("u"), keys.add("o", role="ops"), keys.add("a", role="admin")
    with keyed(engine, keys) as gate:

        def seen(secret: str) -> list[int]:
            restart = gate.http.post("/admin/engines/e9/restart", headers={"x-api-key": secret})
            looks = [gate.get(path, x_api_key=secret).status_code for path in ("/status", "/metrics")]
            return [ask(gate, secret).status, *looks, restart.status_code]

        assert seen(user) == [200, 403, 403, 403]
        assert seen(ops) == [403, 200, 200, 403]
        assert seen(admin) == [200, 200, 200, 404]
        check(ask(gate, ops), "forbidden")
        basic = gate.http.get("/", auth=("anybody", ops), headers={"x-api-key": ""})
        assert basic.status_code == 200


def test_a_model_that_a_key_may_not_use_is_forbidden_and_not_listed(engine: Engine, keys: KeysFile) -> None:
    mine, other = keys.add("mine", models=[MODEL, "x"]), keys.add("theirs", models=["x"])
    with keyed(engine, keys) as gate:
        assert ask(gate, mine).status == 200
        refused = ask(gate, other)
        check(refused, "forbidden")
        assert refused.error["param"] == "model"
        gate.until_counted(1, "api_refusals_total", reason="forbidden", key="theirs", model=MODEL)
        assert [card["id"] for card in gate.get("/v1/models", x_api_key=mine).json()["data"]] == [MODEL]
        assert gate.get("/v1/models", x_api_key=other).json()["data"] == []
        assert gate.get(f"/v1/models/{MODEL}", x_api_key=other).status_code == 404


def test_an_expired_key_is_unauthorized_and_is_told_why(engine: Engine, keys: KeysFile) -> None:
    old = keys.add("old", expires=edit.bare("2020-01-01"))
    with keyed(engine, keys) as gate:
        refused = ask(gate, old)
        check(refused, "unauthorized")
        assert "expired" in refused.error["message"]
        assert gate.status()["keys"]["expired"] == 1


def test_nobody_asks_for_more_urgency_than_its_key_has(engine: Engine, keys: KeysFile) -> None:
    """Refusals are told apart by priority: a line of none refuses at once."""
    normal, low, high = keys.add("n"), keys.add("l", priority="low"), keys.add("h", priority="high")
    with keyed(engine, keys, "--max-active", "1", "--queue-max", "0") as gate, gate.client() as holder:
        holder.post("/v1/chat/completions", chat(4000), x_api_key=high).until_events(1)
        for secret in (normal, low, high):
            assert gate.ask(x_api_key=secret, x_headgate_priority="high").status == 429
        for name, priority in (("n", "normal"), ("l", "low"), ("h", "high")):
            gate.until_counted(1, "api_refusals_total", key=name, priority=priority)


def test_a_changed_file_counts_without_a_restart(engine: Engine, keys: KeysFile) -> None:
    first = keys.add("first")
    with keyed(engine, keys) as gate:
        second = keys.add("second")
        wait_until(lambda: ask(gate, second).status == 200, "the new key is known")
        store.change(keys.path, lambda text: edit.remove(text, "first"))
        wait_until(lambda: ask(gate, first).status == 401, "the revoked key is not")
        assert ask(gate, second).status == 200


def test_a_broken_file_keeps_the_old_keys_and_is_seen(engine: Engine, keys: KeysFile) -> None:
    secret = keys.add("a")
    with keyed(engine, keys) as gate:
        assert gate.metric("api_keys_file_ok") == 1
        good = keys.path.read_text()
        keys.path.write_text(good + "[keys.b]\nhash = 'nonsense'\n")
        gate.until_counted(0, "api_keys_file_ok")
        assert ask(gate, secret).status == 200
        assert "`b`" in gate.status()["keys"]["error"]
        wait_until(lambda: "stay as they were" in gate.log(), "the log says so")
        keys.path.write_text(good)
        gate.until_counted(1, "api_keys_file_ok")
        assert gate.status()["keys"] | {"read_at": 0} == {
            "file": str(keys.path),
            "keys": 1,
            "expired": 0,
            "read_at": 0,
            "error": None,
        }


def test_a_file_that_is_wrong_or_missing_stops_the_start_with_one_line(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[keys.a]\nhash = 'hg-a-secret-in-the-wrong-place'\n")
    for path in (wrong, tmp_path / "none.toml"):
        command = [sys.executable, "-m", "headgate", "serve", "--port", "0", "--api-keys-file", str(path)]
        ended = run_process(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert str(path) in line
        assert "wrong-place" not in line


def test_the_command_makes_a_key_that_the_gateway_takes(engine: Engine, keys: KeysFile) -> None:
    keys.add("a")
    with keyed(engine, keys) as gate:
        command = [sys.executable, "-m", "headgate", "keys", "add", "b", "--file", str(keys.path), "--json"]
        made = json.loads(run_process(command, capture_output=True, text=True, check=True).stdout)
        keys.secrets["b"] = made["key"]
        wait_until(lambda: ask(gate, made["key"]).status == 200, "the new key is known")


def test_a_keys_file_on_a_disk_that_hangs_keeps_no_gateway_from_ending(engine: Engine, keys: KeysFile) -> None:
    """The thread that waited for it was waited for, for ever, with a traceback in the log each second."""
    secret = keys.add("a")
    with gateway(engine, "--api-keys-file", str(keys.path)) as gate:
        keys.path.unlink()
        os.mkfifo(keys.path)
        wait_until(lambda: "does not answer" in str(gate.status()["keys"]["error"]), "it is told")
        assert gate.metric("api_keys_file_ok") == 0
        assert ask(gate, secret).status == 200
        gate.terminate()
        assert gate.exit_status() == 0
