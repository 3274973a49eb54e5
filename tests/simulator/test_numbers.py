"""Constants and their files; words and tokens."""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from click.testing import CliRunner
from hypothesis import given

from headgate.simulator import text
from headgate.simulator.cli import main
from headgate.simulator.constants import Constants, Limits, load

if TYPE_CHECKING:
    from pathlib import Path


def test_constants_come_from_toml_and_json(tmp_path: Path) -> None:
    toml, json = tmp_path / "c.toml", tmp_path / "c.json"
    toml.write_text("base_s = 0.5\nmax_num_seqs = 7\n")
    json.write_text('{"base_s": 0.5, "max_num_seqs": 7}')
    assert load(toml) == load(json) == (Constants(base_s=0.5), {"max_num_seqs": 7})


@pytest.mark.parametrize(
    "content",
    [
        *("base_s = -1", "base_s = nan", "load_s = inf", "speed_of_light = 3", "base_s = 'fast'", "[["),
        *("load_s = 1e308", f"load_s = {10**400}", f"load_s = {'[' * 2000}{']' * 2000}"),
    ],
)
def test_a_wrong_file_of_constants_is_refused_with_its_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"wrong\.toml"):
        load(path)


def test_numbers_that_are_none_are_refused_by_name() -> None:
    """From the command line a negative or endless duration was taken, and from a file half a sequence."""
    with pytest.raises(ValueError, match="base_s must be a number from 0 to 1,000,000,000, not -1"):
        Constants(base_s=-1.0)
    with pytest.raises(ValueError, match="must be a number from 0 to 1,000,000,000, not nan"):
        Constants(base_s=1.0).sped_up(nan)
    with pytest.raises(ValueError, match=r"max_num_seqs must be a whole number of at least 1, not 2\.5"):
        Limits(max_num_seqs=2.5)  # type: ignore[arg-type]  # as a file may have it


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--speed", "1e-300"], "base_s must be a number from 0 to 1,000,000,000"),
        (["--load-s", "1e308"], "load_s must be a number from 0 to 1,000,000,000"),
        (["--draw-lengths", "inf"], "draw_lengths must be a number from 1 to 1,000,000,000, not inf"),
        (["--draw-lengths", "nan"], "draw_lengths must be a number from 1"),
        (["--shutdown-timeout", "-1"], "shutdown_timeout must be a number from 0"),
        (["--fault", '{"kind":"stall","seconds":-1}'], "not a fault: Expected `float` >= 0.0 - at `$.seconds`"),
        (["--fault", '{"kind":"error","status":99999}'], "not a fault: Expected `int` <= 599 - at `$.status`"),
        (["--fault", '{"kind":"dribble","bytes":0}'], "not a fault: Expected `int` >= 1 - at `$.bytes`"),
        (["--fault", '{"kind":"cut","times":0}'], "not a fault: Expected `int` >= 1 - at `$.times`"),
    ],
)
def test_what_no_clock_can_count_to_is_refused_before_the_start(flags: list[str], why: str) -> None:
    """The start was a traceback, or each request an error 500."""
    refused = CliRunner().invoke(main, flags)
    assert refused.exit_code == 2
    assert why in refused.stderr


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
