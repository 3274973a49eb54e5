"""The keys file on disk: read whole, replaced whole, and one writer at a time.

It is replaced by a rename, so that whoever reads it sees all of the old one or all of the new one, and the gateway's
look at it (``Stamp``) sees another inode.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from headgate.keys.records import Key, KeysError, parse

MODE = 0o600
"""Of a new file."""
SIZE_MOST = 16 * 2**20


class Stamp(NamedTuple):
    """What changes where a file was changed, or another took its place."""

    mtime_ns: int
    size: int
    inode: int


def stamp(path: Path) -> Stamp | None:
    """None where there is no such file, or none that may be looked at."""
    try:
        seen = path.stat()
    except OSError:
        return None
    return Stamp(seen.st_mtime_ns, seen.st_size, seen.st_ino)


def load(path: Path) -> dict[str, Key]:
    """The keys of a file.

    Raises:
        KeysError: it isn't there, can't be read, or is wrong.
    """
    return parse(_text(path))


def change(path: Path, to: Callable[[str], str]) -> None:
    """Replace the file's text by what ``to`` makes of it; a file that isn't there is empty.

    Raises:
        KeysError: ``to`` refused, or the file can't be read or written.
    """
    path = Path(os.path.realpath(path))  # a link stays one, and what it points to is replaced
    try:
        with _only_writer(path.parent):
            there = path.exists()
            after = to(_text(path) if there else "")
            _replace(path, after, path.stat() if there else None)
    except OSError as error:
        raise KeysError(f"it can't be written: {error.strerror or error}.") from None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(SIZE_MOST + 1)
        if len(content) > SIZE_MOST:
            raise KeysError(f"it is larger than {SIZE_MOST} bytes.")
        return content.decode()
    except UnicodeDecodeError:
        raise KeysError("it is not UTF-8.") from None
    except PermissionError:
        raise KeysError(f"it can't be read: the user {_own_name()}, who runs this, may not.") from None
    except OSError as error:
        raise KeysError(f"it can't be read: {error.strerror or error}.") from None


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # of a container, say
        return str(os.geteuid())


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    # The folder is locked and not the file, which is another one after each change.
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
        os.fsync(number)
    finally:
        os.close(number)


def _replace(path: Path, text: str, old: os.stat_result | None) -> None:
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(number, "wb") as file:
            if old is not None:
                with contextlib.suppress(OSError):  # a group can be one of the caller's own, and
                    os.fchown(file.fileno(), -1, old.st_gid)
                    os.fchown(file.fileno(), old.st_uid, -1)  # only root may give a file away
            # As it was: a gateway that reads it as one of its group must be able to, or what is revoked stays good.
            os.fchmod(file.fileno(), MODE if old is None else stat.S_IMODE(old.st_mode))
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
