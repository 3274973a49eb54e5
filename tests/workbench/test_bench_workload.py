from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.workbench.bench import callers, trace, words
from headgate.workbench.bench.callers import BadCaller, Caller, Drawn, backlog, divided
from headgate.workbench.bench.raw import Plan
from headgate.workbench.bench.trace import BadTrace
from headgate.workbench.bench.workload import Ask, workload

SCALE = words.Scale(1.0, 20.0)


def asks(plan: Plan, count: int = 20) -> list[Ask]:
    made = workload(plan, SCALE)
    return [made.ask(number, "someone") for number in range(count)]


@pytest.mark.parametrize("kind", ["fixed", "mixed", "shared-prefix", "conversation"])
def test_a_seed_gives_the_same_requests_again_and_another_gives_others(kind: str) -> None:
    plan = Plan(workload=kind, seed=3, salt="3")
    assert asks(plan) == asks(plan)
    assert asks(plan) != asks(msgspec.structs.replace(plan, seed=4, salt="4"))


def test_request_n_is_the_same_whenever_it_is_asked_for() -> None:
    made = workload(Plan(workload="mixed", salt="x"), SCALE)
    assert [made.ask(n, "a") for n in (5, 2, 9)] == [made.ask(n, "b") for n in (5, 2, 9)]


@pytest.mark.parametrize("kind", ["fixed", "mixed", "conversation"])
def test_no_two_prompts_begin_alike(kind: str) -> None:
    made = asks(Plan(workload=kind, salt="x", input_tokens=1000), 300)
    assert len({ask.messages[0][1][:40] for ask in made}) == 300


def test_another_salt_asks_for_the_same_lengths_in_other_words() -> None:
    one, other = (asks(Plan(workload="mixed", seed=1, salt=salt), 50) for salt in "ab")
    assert [ask.output_tokens for ask in one] == [ask.output_tokens for ask in other]
    assert [len(ask.messages[0][1]) for ask in one] == [len(ask.messages[0][1]) for ask in other]
    assert not {ask.messages[0][1] for ask in one} & {ask.messages[0][1] for ask in other}


def test_the_fixed_workload_is_200_in_and_200_out() -> None:
    (ask,) = asks(Plan(), 1)
    assert ask.output_tokens == 200
    assert len(ask.messages[0][1].removesuffix(words.CLOSING).split()) == 180, "20 tokens are the template's"


def test_mixed_lengths_lie_around_the_mean_and_end_somewhere() -> None:
    lengths = [ask.output_tokens for ask in asks(Plan(workload="mixed", seed=1), 3000)]
    assert sum(lengths) / len(lengths) == pytest.approx(200, rel=0.06)
    assert min(lengths) < 60
    assert 600 < max(lengths) <= 1200


def test_a_shared_prefix_is_shared_by_those_that_have_it() -> None:
    plan = Plan(workload="shared-prefix", prefix_tokens=300, prefixes=3, salt="x")
    made = asks(plan, 60)
    prefixes = Counter(ask.messages[0] for ask in made)
    assert len(prefixes) == 3
    assert all(role == "system" and len(said.split()) == 300 for role, said in prefixes)
    assert len({ask.messages[1] for ask in made}) == 60


def test_a_conversation_grows_by_what_was_answered_and_ends_after_its_turns() -> None:
    made = workload(Plan(workload="conversation", turns=3), SCALE)
    seen = []
    for number in range(4):
        ask = made.ask(number, "alice")
        seen.append((ask.conversation, ask.turn, [role for role, _ in ask.messages]))
        made.ended(ask, "alice", f"answer {number}")
    grown = ["user"] + ["assistant", "user"] * 2
    assert seen == [(0, 1, grown[:1]), (0, 2, grown[:3]), (0, 3, grown), (1, 1, grown[:1])]


def test_a_conversation_is_in_one_place_at_a_time_and_is_its_callers_own() -> None:
    made = workload(Plan(workload="conversation"), SCALE)
    first = made.ask(0, "alice")
    assert made.ask(1, "alice").conversation == 1, "the first has no answer yet"
    made.ended(first, "alice", "Yes.")
    assert made.ask(2, "bob").conversation == 2
    again = made.ask(3, "alice")
    assert (again.conversation, again.turn, again.messages[1]) == (0, 2, ("assistant", "Yes."))


def test_a_conversation_whose_turn_failed_is_given_up() -> None:
    made = workload(Plan(workload="conversation"), SCALE)
    made.ended(made.ask(0, "a"), "a", None)
    assert made.ask(1, "a").conversation == 1


@settings(deadline=None)
@given(st.integers(1, 3000), st.floats(0.7, 4), st.integers(0, 100))
def test_words_make_the_tokens_that_were_asked_for(tokens: int, per_word: float, around: int) -> None:
    counts = [(n, round(around + n * per_word)) for n in (40, 160)]
    scale = words.fit(*counts)
    assert scale is not None
    made = around + scale.words(tokens) * per_word
    assert made == pytest.approx(tokens, abs=max(per_word, around + per_word) + 0.02 * tokens + 2)


def test_counts_that_make_no_sense_are_no_scale() -> None:
    assert words.fit((40, 10), (160, 10)) is None
    assert words.fit((40, 10), (40, 20)) is None


def test_all_words_are_of_three_letters() -> None:
    assert {len(word) for word in words.WORDS} == {3}
    assert len(set(words.WORDS)) == len(words.WORDS) > 70


def write(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_a_trace_is_replayed_in_the_order_of_its_arrivals(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl",
        {"arrival_s": 2.0, "prompt": "What is a headgate?", "output_tokens": 5, "caller": "alice"},
        "",
        {"arrival_s": 0.5, "prompt_tokens": 70, "output_tokens": 9, "model": "passed over"},
    )
    entries = trace.read(path)
    assert [entry.arrival_s for entry in entries] == [0.5, 2.0]
    made = workload(Plan(trace=str(path)), SCALE, entries)
    first, second = made.ask(0, "x"), made.ask(1, "x")
    assert len(first.messages[0][1].removesuffix(words.CLOSING).split()) == 50
    assert (second.messages, second.output_tokens) == ([("user", "What is a headgate?")], 5)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 2"),
        ({"arrival_s": -1, "prompt_tokens": 1, "output_tokens": 1}, "line 2: arrival_s"),
        ({"arrival_s": 1, "prompt_tokens": 1, "output_tokens": 0}, "output_tokens"),
        ({"arrival_s": 1, "output_tokens": 1}, "either prompt or prompt_tokens"),
        ({"prompt_tokens": 1, "output_tokens": 1}, "line 2: .*arrival_s"),
    ],
)
def test_a_trace_that_is_wrong_is_one_line_that_says_where(tmp_path: Path, line: object, why: str) -> None:
    path = write(tmp_path / "t.jsonl", {"arrival_s": 0, "prompt": "x", "output_tokens": 1}, line)
    with pytest.raises(BadTrace, match=why):
        trace.read(path)


def test_a_trace_with_nothing_in_it_or_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="no request"):
        trace.read(write(tmp_path / "t.jsonl", ""))
    with pytest.raises(BadTrace, match="No such file"):
        trace.read(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("text", "caller"),
    [
        ("alice", Caller("alice")),
        ("alice:3", Caller("alice", 3.0)),
        ("alice=sk-1:2=3", Caller("alice", 1.0, "sk-1:2=3")),
        ("alice:0.5=sk", Caller("alice", 0.5, "sk")),
    ],
)
def test_a_caller_is_a_name_a_share_and_a_key(text: str, caller: Caller) -> None:
    assert callers.parse(text) == caller


@pytest.mark.parametrize("text", ["", ":2", "a:x", "a:0", "a:-1", "a:nan", "a=sk\r\nx-evil: 1", "a=schlüssel"])
def test_what_is_no_caller_is_refused(text: str) -> None:
    with pytest.raises(BadCaller):
        callers.parse(text)


def test_a_key_is_never_shown() -> None:
    caller = Caller("a", 1.0, "sk-secret", {"x-api-key": "sk-other", "x-headgate-priority": "low"})
    assert "sk-secret" not in repr(caller)
    assert caller.plan().headers == {"x-api-key": "…", "x-headgate-priority": "low"}


def test_callers_come_from_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "callers.toml"
    path.write_text('[[caller]]\nname = "greedy"\nshare = 9\nkey = "k"\n[[caller]]\nname = "shy"\n')
    assert [(c.name, c.share, c.key) for c in callers.read(path)] == [("greedy", 9, "k"), ("shy", 1, None)]
    path.write_text('[[caller]]\nnam = "x"\n')
    with pytest.raises(BadCaller, match="nam"):
        callers.read(path)
    with pytest.raises(BadCaller, match="twice"):
        callers.check([Caller("a"), Caller("a")])


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8), st.integers(1, 200))
def test_users_are_divided_in_proportion(shares: list[float], users: int) -> None:
    people = [Caller(f"c{i}", share) for i, share in enumerate(shares)]
    counts = Counter(caller.name for caller in divided(people, users))
    assert counts.total() == users
    for person in people:
        assert abs(counts[person.name] - users * person.share / sum(shares)) < 1


def test_callers_are_drawn_in_proportion_and_the_same_again_by_their_seed() -> None:
    people = [Caller("a", 3), Caller("b", 1)]
    drawn = Drawn(people, 5)
    names = [drawn.next().name for _ in range(4000)]
    assert names.count("a") / 4000 == pytest.approx(0.75, abs=0.03)
    again = Drawn(people, 5)
    assert names == [again.next().name for _ in range(4000)]


def test_text_is_drawn_by_its_dice_alone() -> None:
    assert words.text(random.Random(1), 50) == words.text(random.Random(1), 50)


def test_a_caller_in_a_file_has_priority_lengths_and_a_backlog_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "callers.toml"
    path.write_text(
        '[[caller]]\nname = "people"\npriority = "high"\n'
        '[[caller]]\nname = "batch"\nshare = 0\nbacklog = 3\noutput = 400\n'
    )
    people, batch = found = callers.read(path)
    callers.check(found)
    assert people.headers == {"x-headgate-priority": "high"}
    plan = Plan(callers=[one.plan() for one in found], output_tokens=50)
    made = workload(plan, SCALE)
    assert [made.ask(n, name).output_tokens for n, name in enumerate(["people", "batch"])] == [50, 400]
    assert backlog(found) == ["batch"] * 3
    with pytest.raises(BadCaller, match="share"):
        callers.check([batch])


def test_backlogs_of_several_come_turn_by_turn() -> None:
    assert backlog([Caller("a", backlog=4), Caller("b", backlog=2)]) == ["a", "b", "a", "a", "b", "a"]
