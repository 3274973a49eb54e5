"""The file on disk, and the book that the gateway keeps of it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pwd
import threading
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner

from headgate.cli import main
from headgate.keys import Key, KeysError, store
from headgate.keys.book import Book
from headgate.keys.records import digest, hash_of, new_secret


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def run(path: Path, *arguments: str, status: int = 0) -> str:
    """What ``headgate keys`` prints."""
    result = CliRunner().invoke(main, ["keys", *arguments, "--file", str(path)], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.stdout if not status else result.output


def made(path: Path, name: str, *flags: str) -> str:
    """A new key."""
    secret: str = json.loads(run(path, "add", name, *flags, "--json"))["key"]
    return secret


def look(book: Book, times: int = 2) -> None:
    """As often as it takes to believe what is new."""
    for _ in range(times):
        asyncio.run(book.look())


def test_a_key_is_printed_once_and_only_its_hash_is_kept(path: Path) -> None:
    secret = run(path, "add", "team-a", "--max-active", "4", "--model", "m", "--days", "30").strip()
    assert secret.startswith("hg-")
    assert secret not in path.read_text()
    assert hash_of(secret) in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret not in run(path, "list")
    assert Book(path).find(secret.encode()) == store.load(path)["team-a"]


def test_the_list_says_who_may_what(path: Path) -> None:
    made(path, "team-a", "--requests-per-min", "60", "--tokens-per-min", "1e6", "--priority", "-2")
    made(path, "prom", "--role", "ops")
    table = run(path, "list").splitlines()
    assert table[0].split() == [
        "NAME",
        "ROLE",
        "PRIORITY",
        "WEIGHT",
        "REQ/MIN",
        "TOK/MIN",
        "SLOTS",
        "MODELS",
        "EXPIRES",
    ]
    assert table[1].split() == ["team-a", "user", "-2", "1", "60", "1000000", "-", "-", "-"]
    assert table[2].split()[:2] == ["prom", "ops"]
    told = json.loads(run(path, "list", "--json"))
    assert [each["name"] for each in told["keys"]] == ["team-a", "prom"]
    assert told["keys"][0]["requests_per_min"] == 60


@pytest.mark.parametrize(
    ("expires", "told"),
    [("9999-12-31", "9999-12-31T23:59:59Z"), ("0001-01-01T00:00:00+23:59", "1-01-01T00:00:00Z")],
)
def test_a_key_for_ever_is_listed(path: Path, expires: str, told: str) -> None:
    """The end of its last day is no time any more: a traceback."""
    made(path, "a", "--requests-burst", "3", "--requests-per-min", "1")
    path.write_text(path.read_text() + f"expires = {expires}\n")
    assert told in run(path, "list")
    (listed,) = json.loads(run(path, "list", "--json"))["keys"]
    assert listed["expires"].endswith(told)
    assert listed["requests_burst"] == 3


def test_what_cannot_be_is_one_line_and_status_1_and_changes_nothing(path: Path) -> None:
    made(path, "a")
    before = path.read_bytes()
    run(path, "add", "a", status=1)
    run(path, "add", "a b", status=1)
    run(path, "add", "b", "--weight", "0", status=1)
    run(path, "revoke", "b", status=1)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["keys.toml"], "nothing is left lying about"
    assert json.loads(run(path, "revoke", "b", "--json", status=1).splitlines()[0])["error"]


def test_a_folder_that_is_not_there_is_said_with_the_path_once(tmp_path: Path) -> None:
    away = tmp_path / "away" / "keys.toml"
    result = CliRunner().invoke(main, ["keys", "add", "a", "--file", str(away)])
    assert result.exit_code == 1
    assert result.output == f"headgate: {away}: it can't be written: No such file or directory.\n"


def test_a_key_is_rotated_with_no_moment_in_which_none_is_good(path: Path) -> None:
    old = made(path, "a", "--max-active", "2")
    new = json.loads(run(path, "rotate", "a", "--json"))["key"]
    both = Book(path)
    assert both.find(old.encode()) is both.find(new.encode()) is not None
    run(path, "revoke", "a", "--old")
    one = Book(path)
    assert one.find(old.encode()) is None
    found = one.find(new.encode())
    assert found is not None
    assert found.max_active == 2
    run(path, "revoke", "a")
    assert Book(path).find(new.encode()) is None


def test_the_owner_of_a_link_finds_it_a_link_still(path: Path) -> None:
    real = path.parent / "elsewhere.toml"
    real.touch()
    path.symlink_to(real)
    made(path, "a")
    assert path.is_symlink()
    assert "a" in store.load(real)


def test_who_may_read_the_file_may_read_it_when_it_was_changed(path: Path) -> None:
    """A gateway of its group could not, and what was revoked stayed good."""
    made(path, "a")
    path.chmod(0o640)
    run(path, "revoke", "a")
    assert path.stat().st_mode & 0o777 == 0o640


def test_many_who_write_at_once_lose_nothing(path: Path) -> None:
    def add(i: int) -> None:
        from headgate.keys import edit

        store.change(path, lambda text: edit.add(text, f"k{i}", {"hash": hash_of(new_secret())}))

    writers = [threading.Thread(target=add, args=(i,)) for i in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert set(store.load(path)) == {f"k{i}" for i in range(8)}


def test_a_changed_file_is_in_force_at_the_second_look(path: Path) -> None:
    first = made(path, "a")
    book = Book(path)
    second = made(path, "b")
    assert book.find(second.encode()) is None
    look(book)
    assert book.find(first.encode()) is not None
    assert book.find(second.encode()) is not None
    assert book.status()["keys"] == 2


def test_the_first_half_of_a_file_that_is_being_written_is_no_file(path: Path) -> None:
    """An upload in place: its first half is a good file, and whoever stands in the other was refused."""
    first, second = made(path, "a"), made(path, "b", "--max-active", "1")
    book = Book(path)
    whole = path.read_text()
    for size in (0, whole.index("[keys.b]"), whole.index("max_active"), len(whole) - 1):
        path.write_text(whole[:size])
        look(book, 1)
        assert book.find(first.encode()) is not None
        found = book.find(second.encode())
        assert found is not None
        assert found.max_active == 1
    path.write_text(whole[: whole.index("[keys.b]")])
    look(book)
    assert book.find(second.encode()) is None, "it stays so: it is meant"


def test_a_file_of_somebody_else_says_who_may_not_read_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made by root, mode 0600, for a gateway that runs as a user of its own."""
    made(path, "a")

    def closed(*_: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", closed)
    for user, named in ((os.geteuid(), pwd.getpwuid(os.geteuid()).pw_name), (2**31 - 9, str(2**31 - 9))):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        with pytest.raises(KeysError, match=f"the user {named}, who runs this, may not"):
            store.load(path)


def test_a_file_that_can_be_read_again_is_taken_though_nobody_wrote_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its rights were mended, or there are file descriptors again: it has the time and the size that it had."""
    secret = made(path, "a")
    book = Book(path)

    def unreadable(path: Path) -> dict[str, Key]:
        raise KeysError("it can't be read: Permission denied.")

    run(path, "revoke", "a")
    with monkeypatch.context() as patched:
        patched.setattr(store, "load", unreadable)
        look(book, 5)
    assert book.error == "it can't be read: Permission denied."
    assert len(caplog.records) == 1
    look(book)
    assert book.status()["error"] is None
    assert book.find(secret.encode()) is None


def test_a_disk_that_hangs_is_told_and_the_keys_stay(path: Path) -> None:
    secret = made(path, "a")
    good = path.read_bytes()
    book = Book(path)
    path.unlink()
    os.mkfifo(path)

    def answer() -> None:
        path.write_bytes(good)  # to who waits at the other end

    async def hang() -> None:
        hanging = asyncio.create_task(book.look())
        for _ in range(4):
            await asyncio.sleep(0)
            await book.look()
        assert "does not answer" in str(book.error)
        assert book.find(secret.encode()) is not None
        answer()
        await hanging

    asyncio.run(hang())
    path.unlink()
    path.write_bytes(good)
    look(book)
    assert book.status()["error"] is None


def test_where_no_thread_is_to_be_had_that_is_said_once_and_the_next_look_is_taken(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each look ended with a trace in the log, and nothing else told that what is revoked stays good."""
    made(path, "a")
    book = Book(path)

    def exhausted(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", exhausted)
        look(book, 3)
    assert book.error == "it can't be looked at: can't start new thread."
    assert len(caplog.records) == 1
    look(book)
    assert book.status()["error"] is None


@pytest.mark.parametrize("broken", [b"[keys.a]\nhash = 1", b"\xff", None])
def test_a_broken_file_keeps_the_keys_and_says_so_once(
    path: Path, broken: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    secret = made(path, "a")
    book = Book(path)
    good = path.read_bytes()
    path.unlink() if broken is None else path.write_bytes(broken)
    for _ in range(3):
        look(book)
    assert book.find(secret.encode()) is not None
    assert book.status()["error"] == book.error != ""
    assert len(caplog.records) == 1
    path.write_bytes(good)
    look(book)
    assert book.error is None


def test_a_file_that_is_wrong_at_the_start_is_refused(path: Path) -> None:
    with pytest.raises(KeysError, match="No such file"):
        Book(path)
    path.write_bytes(b" " * (store.SIZE_MOST + 1))
    with pytest.raises(KeysError, match="larger"):
        Book(path)


def test_a_key_is_over_at_its_time(path: Path) -> None:
    now = 0.0
    secret = made(path, "a")
    path.write_text(path.read_text() + "expires = 2027-01-01\n")
    book = Book(path, now=lambda: now)
    key = book.find(secret.encode())
    assert key is not None
    now = key.expires_at - 1
    assert not book.has_expired(key)
    now = key.expires_at
    assert book.has_expired(key)
    assert book.status()["expired"] == 1


def test_no_key_is_found_for_nothing_or_for_a_hash(path: Path) -> None:
    secret = made(path, "a")
    book = Book(path)
    for shown in (b"", b"hg-", hash_of(secret).encode(), digest(secret.encode()), secret.encode() + b" "):
        assert book.find(shown) is None
