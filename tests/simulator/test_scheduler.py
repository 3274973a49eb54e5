"""The pure model: what holds at every step, whatever arrives and leaves."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headgate.simulator.constants import Constants, Limits
from headgate.simulator.scheduler import Scheduler
from headgate.simulator.sequence import Sequence, Step

TIGHT = Limits(max_num_seqs=4, max_num_batched_tokens=24, max_model_len=48, num_gpu_blocks=14, block_size=4)


def sequence(prompt: int = 8, output: int = 4, prefix: int = 0, block_size: int = 4) -> Sequence:
    """A sequence whose prompt begins like all others of the same ``prefix``."""
    hashes = [hash((prefix, i)) for i in range((prompt - 1) // block_size)]
    return Sequence(prompt, output, hashes=hashes)


def run(scheduler: Scheduler, now: float = 0.0) -> float:
    """Step until nobody is served; the time then."""
    while (step := scheduler.begin(now)) is not None:
        now += step.seconds
        scheduler.end(step, now)
    return now


class Model(RuleBasedStateMachine):
    """Sequences arrive, steps begin and end, clients leave, in any order."""

    limits = TIGHT
    constants = Constants()

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(self.constants, self.limits)
        self.now = 0.0
        self.step: Step | None = None
        self.all: list[Sequence] = []
        self.ends: dict[Sequence, int] = {}

    @rule(prompt=st.integers(1, 30), output=st.integers(1, 18), prefix=st.integers(0, 3))
    def arrive(self, prompt: int, output: int, prefix: int) -> None:
        new = sequence(prompt, output, prefix)
        self.all.append(new)
        self.scheduler.add(new, self.now)

    @precondition(lambda self: self.step is None)
    @rule()
    def begin(self) -> None:
        self.step = self.scheduler.begin(self.now)
        served = self.scheduler.waiting or self.scheduler.running
        assert (self.step is not None) == bool(served), "somebody is there, and nobody is served"
        if self.step is not None:
            tokens = sum(count for _, count in self.step.work)
            assert 0 < tokens <= self.limits.max_num_batched_tokens
            assert self.step.prefill_tokens <= tokens

    @precondition(lambda self: self.step is not None)
    @rule()
    def end(self) -> None:
        assert self.step is not None
        self.now += self.step.seconds
        made = self.scheduler.end(self.step, self.now)
        self.step = None
        for ended in made.ended:
            self.ends[ended] = self.ends.get(ended, 0) + 1
            assert ended.made == ended.output_tokens
            assert ended.finished == "length"

    @precondition(lambda self: self.all)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        leaver = data.draw(st.sampled_from(self.all))
        if self.scheduler.abort(leaver):
            self.ends[leaver] = self.ends.get(leaver, 0) + 1
            assert leaver.finished == "abort"
            assert leaver.table is None

    @invariant()
    def never_more_running_than_allowed(self) -> None:
        assert len(self.scheduler.running) <= self.limits.max_num_seqs

    @invariant()
    def blocks_balance(self) -> None:
        blocks = self.scheduler.blocks
        tables = [s.table for s in self.all if s.table is not None]
        shared = {key for table in tables for key in table.shared}
        assert blocks.used == sum(table.own for table in tables) + len(shared)
        assert 0 <= blocks.used <= blocks.total
        assert blocks.used + blocks.free == blocks.total

    @invariant()
    def everyone_is_in_one_place_and_in_order(self) -> None:
        coming = [sequence for _, sequence in self.scheduler.coming]
        inside = [*self.scheduler.running, *self.scheduler.waiting, *coming]
        assert {s for s in self.all if s.finished is None} == set(inside)
        assert [s.order for s in inside] == sorted(s.order for s in inside)

    @invariant()
    def nobody_ends_twice(self) -> None:
        assert all(count == 1 for count in self.ends.values())

    def teardown(self) -> None:
        if self.step is not None:
            self.end()
        while (step := self.scheduler.begin(self.now)) is not None or self.scheduler.next_s is not None:
            if step is None:
                assert self.scheduler.next_s is not None
                self.now = self.scheduler.next_s
                continue
            self.step = step
            self.end()
        assert self.ends == dict.fromkeys(self.all, 1), "somebody never ended"
        assert self.scheduler.blocks.used == 0


class LateModel(Model):
    """The same where a request is on its way for some steps."""

    constants = Constants(latency_s=0.02)


class StaticModel(Model):
    """The same with static batching."""

    limits = Limits(
        max_num_seqs=4,
        max_num_batched_tokens=24,
        max_model_len=48,
        num_gpu_blocks=14,
        block_size=4,
        static_batching=True,
    )


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestLateModel = LateModel.TestCase
TestLateModel.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestStaticModel = StaticModel.TestCase
TestStaticModel.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@given(running=st.integers(0, 500), prefill=st.integers(0, 10_000))
def test_a_step_costs_what_the_formula_says(running: int, prefill: int) -> None:
    constants = Constants(base_s=0.01, per_sequence_s=0.002, per_prefill_token_s=0.0003)
    assert constants.step_s(running, prefill) == pytest.approx(0.01 + 0.002 * running + 0.0003 * prefill)


def test_prefill_then_one_token_each_step() -> None:
    constants = Constants()
    scheduler = Scheduler(constants, Limits())
    scheduler.add(sequence(prompt=100, output=3, block_size=16), 0.0)
    first = scheduler.begin(0.0)
    assert first is not None
    assert first.seconds == pytest.approx(constants.step_s(1, 100))
    assert len(scheduler.end(first, first.seconds).first) == 1
    second = scheduler.begin(first.seconds)
    assert second is not None
    assert second.prefill_tokens == 0
    assert second.seconds == pytest.approx(constants.step_s(1, 0))


def test_a_long_prompt_is_computed_in_chunks_while_others_go_on() -> None:
    scheduler = Scheduler(Constants(), Limits(max_num_batched_tokens=64))
    short, long = sequence(8, 50, 1, 16), sequence(200, 2, 2, 16)
    scheduler.add(short, 0.0)
    step = scheduler.begin(0.0)
    assert step is not None
    scheduler.end(step, 0.0)
    scheduler.add(long, 0.0)
    while not long.made:
        before = short.made
        step = scheduler.begin(0.0)
        assert step is not None
        scheduler.end(step, 0.0)
        assert short.made == before + 1
    assert short.made == 5  # 200 prompt tokens, 63 a step beside the short one's own


def test_the_latest_arrived_gives_way_and_still_ends() -> None:
    limits = Limits(max_num_seqs=4, max_model_len=32, num_gpu_blocks=8, block_size=4, prefix_caching=False)
    scheduler = Scheduler(Constants(), limits)
    early, late = sequence(12, 16), sequence(12, 16)
    scheduler.add(early, 0.0)
    scheduler.add(late, 0.0)
    run(scheduler)
    assert scheduler.preemptions == 1
    assert (early.made, late.made) == (16, 16)
    assert early.last_token_s is not None
    assert late.last_token_s is not None
    assert early.last_token_s < late.last_token_s


def test_aborting_gives_the_blocks_back_at_once() -> None:
    scheduler = Scheduler(Constants(), TIGHT)
    leaver = sequence(20, 10)
    scheduler.add(leaver, 0.0)
    step = scheduler.begin(0.0)
    assert step is not None
    assert scheduler.blocks.used == 5
    assert scheduler.abort(leaver)
    assert scheduler.blocks.used == 0
    assert not scheduler.end(step, 1.0).gained
    assert not scheduler.abort(leaver)


def test_a_prompt_known_already_is_not_computed_again() -> None:
    scheduler = Scheduler(Constants(), Limits(block_size=4, num_gpu_blocks=2000))
    run_one = sequence(41, 1)
    scheduler.add(run_one, 0.0)
    run(scheduler)
    again = sequence(41, 1)
    scheduler.add(again, 1.0)
    step = scheduler.begin(1.0)
    assert step is not None
    assert (again.cached_tokens, step.prefill_tokens) == (40, 1)
    assert (scheduler.prefix_queries, scheduler.prefix_hits) == (82, 40)


def test_static_batch_lets_nobody_in_until_its_last_member_ends() -> None:
    constants = Constants()
    scheduler = Scheduler(constants, Limits(static_batching=True))
    short, long, later = sequence(4, 1), sequence(4, 5), sequence(4, 1)
    scheduler.add(short, 0.0)
    scheduler.add(long, 0.0)
    step = scheduler.begin(0.0)
    assert step is not None
    scheduler.add(later, 0.0)
    scheduler.end(step, 0.0)
    assert short.finished
    for _ in range(4):
        step = scheduler.begin(0.0)
        assert step is not None
        assert step.seconds == pytest.approx(constants.step_s(2, 0)), "the padded batch costs as a whole"
        assert later.scheduled_s is None
        scheduler.end(step, 0.0)
    assert long.finished
    assert scheduler.begin(0.0) is not None
    assert later.scheduled_s is not None


def test_a_sequence_too_long_for_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match="max_model_len"):
        Scheduler(Constants(), TIGHT).add(sequence(40, 9), 0.0)


def test_a_request_is_in_the_line_after_its_latency_however_idle_the_engine_is() -> None:
    scheduler = Scheduler(Constants(latency_s=0.5), TIGHT)
    first, left = sequence(), sequence()
    scheduler.add(first, 1.0)
    scheduler.add(left, 1.2)
    assert scheduler.begin(1.4) is None
    assert scheduler.next_s == 1.5
    assert scheduler.abort(left)
    assert scheduler.begin(1.5) is not None
    assert scheduler.running == [first]
    assert scheduler.next_s is None


def test_attention_costs_a_prompt_its_pairs_and_a_token_all_before_it() -> None:
    constants = Constants(base_s=0.0, per_sequence_s=0.0, per_prefill_token_s=0.0, per_context_token_s=1.0)
    scheduler = Scheduler(constants, TIGHT)
    scheduler.add(sequence(prompt=8, output=3), 0.0)
    seconds = []
    while (step := scheduler.begin(0.0)) is not None:
        seconds.append(step.seconds)
        scheduler.end(step, 0.0)
    assert seconds == [8 * 7 / 2, 8, 9]
