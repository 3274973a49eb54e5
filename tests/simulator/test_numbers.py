"""Constants, their files and their fitting; words and tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from headgate.simulator import text
from headgate.simulator.constants import Constants, Limits, fit, load

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [(running, prefill) for running in (1, 2, 8, 32, 64) for prefill in (0, 64, 512, 2048)]


@settings(max_examples=30)
@given(
    base=st.floats(1e-4, 0.1),
    each=st.floats(1e-6, 1e-2),
    token=st.floats(1e-7, 1e-3),
    order=st.permutations(ROWS),
)
def test_fitting_recovers_the_constants_that_made_the_rows(
    base: float, each: float, token: float, order: list[tuple[int, int]]
) -> None:
    real = Constants(base_s=base, per_sequence_s=each, per_prefill_token_s=token)
    found = fit([(r, p, real.step_s(r, p)) for r, p in order])
    for running, prefill in ROWS:
        assert found.step_s(running, prefill) == pytest.approx(real.step_s(running, prefill), rel=1e-6)


def test_fitting_is_not_misled_by_noise() -> None:
    real = Constants()
    rows = [(r, p, real.step_s(r, p) * (1.02 if i % 2 else 0.98)) for i, (r, p) in enumerate(ROWS)]
    assert fit(rows).step_s(32, 512) == pytest.approx(real.step_s(32, 512), rel=0.05)


def test_a_coefficient_that_noise_makes_negative_is_held_at_nothing() -> None:
    rows = [(r, p, 0.01 - 1e-5 * r + 1e-5 * p) for r, p in ROWS]
    found = fit(rows)
    assert found.per_sequence_s == 0
    assert found.step_s(8, 512) == pytest.approx(0.015, rel=0.1)


def test_rows_that_cannot_tell_the_constants_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="vary the batch"):
        fit([(4, 0, 0.01), (4, 0, 0.011), (4, 0, 0.012)])


def test_constants_come_from_toml_and_json(tmp_path: Path) -> None:
    toml, json = tmp_path / "c.toml", tmp_path / "c.json"
    toml.write_text("base_s = 0.5\nmax_num_seqs = 7\n")
    json.write_text('{"base_s": 0.5, "max_num_seqs": 7}')
    assert load(toml) == load(json) == (Constants(base_s=0.5), {"max_num_seqs": 7})


@pytest.mark.parametrize("content", ["base_s = -1", "speed_of_light = 3", "base_s = 'fast'", "[["])
def test_a_wrong_file_of_constants_is_refused_with_its_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"wrong\.toml"):
        load(path)


def test_limits_that_hold_no_whole_sequence_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Limits(max_model_len=4096, num_gpu_blocks=10)


def test_speed_divides_every_duration() -> None:
    assert Constants(base_s=1.0, load_s=3.0).sped_up(4).load_s == 0.75
    assert Constants(base_s=1.0).sped_up(4).step_s(0, 0) == 0.25


@given(seed=st.binary(max_size=40), count=st.integers(1, 300))
def test_an_answer_counts_as_many_tokens_as_it_has(seed: bytes, count: int) -> None:
    whole = "".join(text.words(seed, count))
    assert text.token_count(whole.encode()) == count
    assert "".join(text.words(seed, count + 5)).startswith(whole)
    assert text.words(seed, count) == text.words(seed, count)


@given(content=st.text(min_size=1).filter(lambda t: not t.endswith("\0")))
def test_tokenizing_is_reversible(content: str) -> None:
    ids = text.token_ids(content.encode())
    assert len(ids) == text.token_count(content.encode())
    assert text.from_token_ids(ids).rstrip(b"\0").decode() == content


@given(shared=st.binary(min_size=128, max_size=128), one=st.binary(min_size=70), other=st.binary(min_size=70))
def test_prompts_share_their_blocks_as_far_as_they_are_equal(shared: bytes, one: bytes, other: bytes) -> None:
    first, second = text.block_hashes(shared + one, 16), text.block_hashes(shared + other, 16)
    assert first[:2] == second[:2]
    if one[:64] != other[:64]:
        assert first[2] != second[2]


def test_a_prompt_of_whole_blocks_keeps_its_last_token_to_be_computed() -> None:
    assert len(text.block_hashes(b"x" * 64, 16)) == 0
    assert len(text.block_hashes(b"x" * 65, 16)) == 1


@pytest.mark.parametrize("shape", ["geometric", "lognormal"])
def test_drawn_lengths_have_the_mean_that_was_asked_for(shape: str) -> None:
    drawn = [text.drawn_length(b"%d" % i, 50, shape) for i in range(4000)]
    assert min(drawn) >= 1
    assert sum(drawn) / len(drawn) == pytest.approx(50, rel=0.08)


def test_a_stop_string_cuts_across_tokens_and_is_left_out() -> None:
    assert text.cut_at_stop(["one", " two", " six"], ["o s"]) == (["one", " tw", ""], "o s")
    assert text.cut_at_stop(["one", " two"], ["nine"]) == (["one", " two"], None)
    assert text.cut_at_stop(["one", " one", " six"], ["one"], min_tokens=2) == (["one", " "], "one")
