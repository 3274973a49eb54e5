"""What a keys file may say, and the line that a wrong one gets."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf

import pytest

from headgate.keys import KeysError, Role
from headgate.keys.records import PREFIX, Key, digest, hash_of, new_secret, parse

SECRET = "hg-an-example-that-is-not-random"
HASH = hash_of(SECRET)


def one(more: str = "", name: str = "a") -> Key:
    (key,) = parse(f'[keys.{name}]\nhash = "{HASH}"\n{more}').values()
    return key


def refused(text: str) -> str:
    with pytest.raises(KeysError) as caught:
        parse(text)
    line = str(caught.value)
    assert "\n" not in line
    assert SECRET not in line
    assert HASH[7:] not in line
    return line


def test_a_secret_is_32_random_bytes_behind_a_prefix() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(each.startswith(PREFIX) and len(each) == len(PREFIX) + 43 for each in made)


def test_a_key_with_no_more_than_a_hash_is_a_user_with_no_limits_and_no_privilege() -> None:
    assert one() == Key("a", Role.USER, (digest(SECRET.encode()),), rank_least=0)
    assert one().expires_at == inf
    assert one().allows("any")


def test_every_field_is_read() -> None:
    key = one(
        'role = "ops"\npriority = "high"\nweight = 2.5\nrequests_per_min = 60\nrequests_burst = 5\n'
        'tokens_per_min = 1e5\ntokens_burst = 2000\nmax_active = 4\nmodels = ["m"]\nexpires = 2027-01-02T03:04:05Z'
    )
    until = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    digests = (digest(SECRET.encode()),)
    assert key == Key("a", Role.OPS, digests, -1, 2.5, 60.0, 5.0, 1e5, 2000.0, 4, frozenset(("m",)), until)
    assert key.allows("m")
    assert not key.allows("n")


@pytest.mark.parametrize(
    ("written", "until"),
    [
        ("2027-01-02T03:04:05Z", datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2027-01-02T03:04:05+02:00", datetime(2027, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("2027-01-02T03:04:05", datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2027-01-02", datetime(2027, 1, 2, 23, 59, 59, 999999, tzinfo=UTC)),
    ],
)
def test_a_day_counts_to_its_end_and_times_are_utc_unless_they_say_otherwise(written: str, until: datetime) -> None:
    assert one(f"expires = {written}").expires_at == until.timestamp()


@pytest.mark.parametrize(("written", "rank"), [('"low"', 1), ("1", 1), ("-3", -3)])
def test_priority_is_a_word_or_a_number(written: str, rank: int) -> None:
    assert one(f"priority = {written}").rank_least == rank


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('role = "root"', "role"),
        ('priority = "urgent"', "priority"),
        ("priority = 11", "priority"),
        ("priority = true", "priority"),
        ("weight = 0", "weight"),
        ("weight = -1", "weight"),
        ("weight = 5e-324", "weight"),
        ("tokens_per_min = 1e-308", "tokens_per_min"),
        ("tokens_per_min = 1e13", "tokens_per_min"),
        ("weight = inf", "weight"),
        ("weight = nan", "weight"),
        ("requests_per_min = 0", "requests_per_min"),
        ("requests_burst = 0.5", "requests_burst"),
        ("tokens_per_min = true", "tokens_per_min"),
        ('tokens_per_min = "many"', "tokens_per_min"),
        ("max_active = 0", "max_active"),
        ("max_active = 1.5", "max_active"),
        ('models = "m"', "models"),
        ("models = [1]", "models"),
        ('expires = "2027-01-01"', "expires"),
        ("expires = 1", "expires"),
        ("request_per_min = 5", "request_per_min"),
    ],
)
def test_a_wrong_field_is_named_with_its_key(line: str, named: str) -> None:
    said = refused(f'[keys.team-a]\nhash = "{HASH}"\n{line}')
    assert named in said
    assert "team-a" in said


@pytest.mark.parametrize("name", ["anonymous", "default", "admin", "none", "other", '"a b"', '""', '"a\\n"', "x" * 65])
def test_a_name_is_a_label_of_our_own(name: str) -> None:
    refused(f'[keys.{name}]\nhash = "{HASH}"')


@pytest.mark.parametrize(
    "text",
    [
        "[keys.a]",
        '[keys.a]\nhash = "sha256:00"',
        f'[keys.a]\nhash = "{SECRET}"',
        "[keys.a]\nhash = []",
        "[keys.a]\nhash = 1",
        "keys = 1",
        "[keys]\na = 1",
        "[key.a]",
        "[keys.a]\nhash =",
        f"[keys.a]\nhash = {SECRET}",
        f'[keys.a]\nhash = "{HASH}"\n[keys.a]\nhash = "{HASH}"',
        f'[keys.a]\nhash = "{HASH}"\n[keys.b]\nhash = "{HASH}"',
        "x = " + "[" * 5000,
        "\x00",
    ],
)
def test_a_wrong_file_is_one_line_with_no_secret_in_it(text: str) -> None:
    refused(text)
