"""What a key is, and the TOML that says it.

    [keys.team-a]
    hash = "sha256:9f86d0…"
    max_active = 4

A key is 32 random bytes, so one SHA-256 is all that its hash needs: slow hashes (argon2, bcrypt) make guessing dear
where people choose the secret, and nobody guesses 256 bits. One fast hash also means that a look-up is a
dictionary's, and that a stranger can't keep the gateway busy by sending wrong keys.

Apart from the file so that what is right and wrong can be read and tested alone. An error names the key and the field,
never a value: somebody may have pasted the secret itself.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import tomllib
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from enum import StrEnum
from math import inf, isfinite

PREFIX = "hg-"
RANKS = {"high": -1, "normal": 0, "low": 1}
RANK_MOST = 10
RESERVED = frozenset(("anonymous", "default", "admin", "none", "other"))
"""Labels that mean something else."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_HASH = re.compile(r"sha256:([0-9a-f]{64})\Z")
_NUMBER_LEAST, _NUMBER_MOST = 1e-6, 1e12  # beyond these, times and shares are no numbers any more


class KeysError(Exception):
    """The keys can't be taken as they are: one line, with nothing secret in it."""


class Role(StrEnum):
    """What a key is for."""

    USER = "user"
    ADMIN = "admin"
    OPS = "ops"


@dataclass(frozen=True, slots=True)
class Key:
    """One key, or several that go by one name while one takes the place of another.

    Attributes:
        name: the label ``key`` in metrics and logs.
        role: ``user`` generates, ``ops`` looks, ``admin`` does both and administers.
        digests: SHA-256 of each of its secrets, the newest last.
        rank_least: the soonest that it may ask to be served: 0 normal, below 0 sooner, above 0 later.
        weight: its share against other keys.
        requests_per_min, tokens_per_min: None: no limit.
        requests_burst, tokens_burst: how many at once; None: those of a minute.
        max_active: slots that it may hold; None: all.
        models: those that it may use; None: all.
        expires_at: Unix time from which it isn't valid any more; inf: never.
    """

    name: str
    role: Role = Role.USER
    digests: tuple[bytes, ...] = ()
    rank_least: int = -RANK_MOST
    weight: float = 1.0
    requests_per_min: float | None = None
    requests_burst: float | None = None
    tokens_per_min: float | None = None
    tokens_burst: float | None = None
    max_active: int | None = None
    models: frozenset[str] | None = None
    expires_at: float = inf

    @property
    def rights(self) -> Key | None:
        """Itself, where it is from a file; None for those that are not, and may do everything."""
        return self if self.digests else None

    def allows(self, model: str) -> bool:
        """Whether it may use this model."""
        return self.models is None or model in self.models


def new_secret() -> str:
    """A key nobody has yet. The prefix is for people and for scanners that look for leaked secrets."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(secret: bytes) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(secret).digest()


def hash_of(secret: str) -> str:
    """What is written of a key."""
    return f"sha256:{digest(secret.encode()).hex()}"


def check_name(name: str) -> str:
    """The name, if a key may have it.

    Raises:
        KeysError: it may not.
    """
    if not _NAME.match(name):
        raise KeysError(
            f"{name[:80]!r} can't be a key's name: it has 64 letters, digits, `_`, `.` and `-` at most, "
            "and begins with a letter or a digit."
        )
    if name in RESERVED:
        raise KeysError(f"`{name}` is the name of something else; take another.")
    return name


def parse(text: str) -> dict[str, Key]:
    """The keys of a file, by name.

    Raises:
        KeysError: one line that says where.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at (line \d+, column \d+|end of document)", str(error))
        raise KeysError(f"it is not TOML ({at[1] if at else 'unreadable'}).") from None
    except (RecursionError, ValueError):  # nested too deeply, a number of thousands of digits
        raise KeysError("it is not TOML that anybody would write.") from None
    tables = content.pop("keys", {})
    if content or not isinstance(tables, dict):
        raise KeysError("it may hold nothing but tables `[keys.NAME]`.")
    keys = {name: _key(check_name(name), table) for name, table in tables.items()}
    seen: dict[bytes, str] = {}
    for key in keys.values():
        for each in key.digests:
            if each in seen:
                raise KeysError(f"`{key.name}` and `{seen[each]}` have the same hash.")
            seen[each] = key.name
    return keys


def _key(name: str, table: object) -> Key:
    if not isinstance(table, dict):
        raise KeysError(f"`keys.{name}` must be a table.")
    fields = dict(table)
    take = fields.pop
    key = Key(
        name,
        role=_role(name, take("role", "user")),
        digests=_digests(name, take("hash", None)),
        rank_least=_rank(name, take("priority", "normal")),
        weight=_number(name, "weight", take("weight", 1.0)) or 1.0,
        requests_per_min=_number(name, "requests_per_min", take("requests_per_min", None)),
        requests_burst=_number(name, "requests_burst", take("requests_burst", None), least=1),
        tokens_per_min=_number(name, "tokens_per_min", take("tokens_per_min", None)),
        tokens_burst=_number(name, "tokens_burst", take("tokens_burst", None), least=1),
        max_active=_whole(name, "max_active", take("max_active", None)),
        models=_models(name, take("models", None)),
        expires_at=_time(name, take("expires", None)),
    )
    if fields:
        raise KeysError(f"`{name}` has a field that there isn't: {next(iter(fields))[:80]!r}.")
    return key


def _wrong(name: str, field: str, takes: str) -> KeysError:
    return KeysError(f"`{field}` of `{name}` must be {takes}.")


def _role(name: str, value: object) -> Role:
    if value not in tuple(Role):
        raise _wrong(name, "role", "user, admin or ops")
    return Role(str(value))


def _digests(name: str, value: object) -> tuple[bytes, ...]:
    texts = value if isinstance(value, list) else [value]
    found = [_HASH.match(text) if isinstance(text, str) else None for text in texts]
    if not found or not all(found):
        raise _wrong(name, "hash", '"sha256:" and 64 hex digits, or a list of these')
    return tuple(bytes.fromhex(each[1]) for each in found if each)


def _rank(name: str, value: object) -> int:
    if isinstance(value, str) and value in RANKS:
        return RANKS[value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= RANK_MOST:
        return value
    raise _wrong(name, "priority", f"high, normal, low, or a whole number from -{RANK_MOST} (first) to {RANK_MOST}")


def _number(name: str, field: str, value: object, least: float = _NUMBER_LEAST) -> float | None:
    if value is None:
        return None
    good = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if not good or not least <= value <= _NUMBER_MOST:  # type: ignore[operator]  # it is a number: good
        raise _wrong(name, field, f"a number from {'0.000001' if least < 1 else '1'} to 1e12")
    return float(value)  # type: ignore[arg-type]


def _whole(name: str, field: str, value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1_000_000:
        raise _wrong(name, field, "a whole number from 1 on")
    return value


def _models(name: str, value: object) -> frozenset[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise _wrong(name, "models", "a list of names")
    return frozenset(value)


def _time(name: str, value: object) -> float:
    if value is None:
        return inf
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date):  # good to the end of that day
        return datetime.combine(value, time.max, UTC).timestamp()
    raise _wrong(name, "expires", "a date or a time, such as 2027-06-30 or 2027-06-30T12:00:00Z, without quotes")
