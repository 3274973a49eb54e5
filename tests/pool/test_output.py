"""Lines out of what an engine prints."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.pool.output import LINE_LIMIT, Output, last_words


@settings(deadline=None)
@given(
    st.lists(st.text(st.sampled_from("ab \r\n\u00e9"), max_size=20), max_size=8),
    st.integers(1, 7),
)
def test_lines_do_not_depend_on_how_the_output_was_cut(texts: list[str], size: int) -> None:
    printed = "".join(texts).encode()
    whole, cut = Output(), Output()
    one = whole.feed(printed) + whole.close()
    pieces = [printed[at : at + size] for at in range(0, len(printed), size)]
    other = [line for piece in pieces for line in cut.feed(piece)] + cut.close()
    assert one == other
    assert whole.lines == cut.lines


def test_a_progress_bar_is_one_line() -> None:
    output = Output()
    output.feed(b"before\n")
    for percent in range(101):
        output.feed(f"\rloading: {percent}%|".encode())
    output.feed(b"\nafter\n")
    assert output.lines == ["before", "loading: 100%|", "after"]


def test_each_redraw_of_a_bar_is_told_as_it_comes() -> None:
    assert Output().feed(b"\r 10%\r 20%\r 30%\r\n") == [" 10%", " 20%", " 30%"]


def test_only_the_last_lines_are_kept() -> None:
    output = Output(kept=3)
    output.feed("".join(f"{number}\n" for number in range(100)).encode())
    assert output.lines == ["97", "98", "99"]


def test_an_engine_that_prints_no_line_end_does_not_fill_our_memory() -> None:
    output = Output()
    for _ in range(100):
        output.feed(b"x" * 65536)
    assert output.close() == ["x" * LINE_LIMIT]


def test_colours_and_cursor_movements_are_taken_out() -> None:
    output = Output()
    output.feed(b"\x1b[1;32mINFO\x1b[0m ready\x1b[A\n")
    assert output.lines == ["INFO ready"]


def test_bytes_that_are_no_text_do_no_harm() -> None:
    output = Output()
    output.feed(b"\xff\xfe ok\n")
    assert output.lines == ["\ufffd\ufffd ok"]


def test_the_last_words_are_those_about_the_error_and_not_the_noise_after_it() -> None:
    error = [
        "(APIServer pid=7) ERROR 11-21 [async_llm.py:906] AsyncLLM output_handler failed.",
        "torch.OutOfMemoryError: CUDA out of memory.",
        "vllm: error: unrecognized arguments: --no-such-thing",
    ]
    noise = [f' - leaked function "f{number}"' for number in range(60)]
    assert last_words(["INFO starting", *error, *noise]) == error
    assert last_words(noise) == noise[-15:]
    assert last_words(["one", "two"]) == ["one", "two"]
