"""The file's text is changed where it has to be, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.keys import KeysError, edit
from headgate.keys.records import RESERVED, hash_of, parse

names = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,6}", fullmatch=True).filter(lambda name: name not in RESERVED)

BY_HAND = f"""# The keys of this house.

# For the team in the cellar.
[keys.cellar]
hash = "{hash_of("c")}"   # made in March
models = [
  "m",
]

# Prometheus, and nobody else.
[ keys . "prom.1" ]
role = "ops"
hash = ["{hash_of("p")}"]
"""


def test_what_somebody_wrote_by_hand_stays() -> None:
    text = edit.add(BY_HAND, "new", {"hash": hash_of("n"), "weight": 2.0, "max_active": 3, "models": ["ü\"'\\\x7f"]})
    assert text.startswith(BY_HAND.rstrip())
    assert parse(text)["new"].models == frozenset(("ü\"'\\\x7f",))
    assert edit.remove(text, "new") == BY_HAND.rstrip() + "\n\n"
    without = edit.remove(BY_HAND, "cellar")
    assert "# The keys of this house." in without
    assert "# Prometheus, and nobody else." in without
    assert list(parse(without)) == ["prom.1"]
    assert list(parse(edit.remove(BY_HAND, "prom.1"))) == ["cellar"]


def test_hashes_are_replaced_and_limits_stay() -> None:
    text = edit.replace_hashes(BY_HAND, "cellar", [hash_of("c"), hash_of("d")])
    assert edit.hashes(parse(text)["cellar"]) == [hash_of("c"), hash_of("d")]
    assert parse(text)["cellar"].models == frozenset(("m",))
    assert parse(text)["prom.1"] == parse(BY_HAND)["prom.1"]
    assert edit.replace_hashes(text, "cellar", [hash_of("c")]) == BY_HAND, "comments among them"


def test_a_name_that_is_taken_or_unknown_is_refused() -> None:
    with pytest.raises(KeysError, match="already"):
        edit.add(BY_HAND, "cellar", {"hash": hash_of("x")})
    with pytest.raises(KeysError, match="no key"):
        edit.remove(BY_HAND, "x")
    with pytest.raises(KeysError, match="no key"):
        edit.replace_hashes(BY_HAND, "x", [hash_of("x")])


@pytest.mark.parametrize(
    "text",
    [
        f'keys.a = {{hash = "{hash_of("a")}"}}\n',
        f'[keys]\na.hash = "{hash_of("a")}"\n',
        f'[keys.a]\nmodels = [\n  "x", # \n"""\n[keys.a]\n"""]\nhash = "{hash_of("a")}"\n',
        f'[keys.a]\nhash = [\n  "{hash_of("a")}",\n]\nmodels = ["""\n[x"""]\n',
    ],
)
def test_an_unusual_file_is_refused_and_not_spoiled(text: str) -> None:
    assert parse(text)
    with pytest.raises(KeysError, match="by hand"):
        edit.remove(text, "a")
    with pytest.raises(KeysError, match="by hand"):
        edit.replace_hashes(text, "a", [hash_of("b")])


@given(st.lists(names, min_size=1, max_size=6, unique=True), st.data())
def test_keys_that_come_and_go_leave_the_others_alone(added: list[str], data: st.DataObject) -> None:
    text = ""
    for name in added:
        text = edit.add(text, name, {"hash": hash_of(name), "requests_per_min": 1.5, "max_active": None})
    assert list(parse(text)) == added
    gone = data.draw(st.sampled_from(added))
    before = parse(text)
    del before[gone]
    assert parse(edit.remove(text, gone)) == before
