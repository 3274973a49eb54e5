"""Which sequences run in the next step, and what the step brings. Pure: time comes in as an argument.

Follows vLLM's scheduler: running sequences first, each one token or the next chunk of its prompt; then
waiting ones in order of arrival while there is a token budget, a place and room in the KV cache. A running
sequence that cannot grow preempts the latest arrived, whose blocks are given back and whose tokens are
computed again later.

With static batching a batch is filled once and nobody joins until its last member has ended; every step costs
as much as the whole batch, since a padded batch computes its ended members too.

A request is ``coming`` for ``latency_s`` before it is in the line: the server in front of an engine reads and tokenizes
it, and the answer takes its way back.

Ends at counts and moments: words are in ``text``, waking those who wait for a token in ``engine``.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from headgate.simulator.blocks import Blocks
from headgate.simulator.sequence import Made, Sequence, Step

if TYPE_CHECKING:
    from headgate.simulator.constants import Constants, Limits
    from headgate.simulator.sequence import Finish


class Scheduler:
    """Sequences waiting and running. ``begin`` says what the next step does, ``end`` books its result."""

    def __init__(self, constants: Constants, limits: Limits) -> None:
        self.constants = constants
        self.limits = limits
        self.blocks = Blocks(limits.num_gpu_blocks, caching=limits.prefix_caching)
        self.coming: deque[tuple[float, Sequence]] = deque()
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.max_running_seen = 0
        self._arrivals = 0
        self._batch = 0

    def __repr__(self) -> str:
        return f"<Scheduler {len(self.running)} running, {len(self.waiting)} waiting, {self.blocks!r}>"

    @property
    def next_s(self) -> float | None:
        """When the next of those that are coming will be in the line; None where nobody is."""
        return self.coming[0][0] if self.coming else None

    def add(self, sequence: Sequence, now: float) -> None:
        """Take a sequence in. Raises ValueError where it would be longer than the model takes."""
        if sequence.prompt_tokens + sequence.output_tokens > self.limits.max_model_len:
            raise ValueError("longer than max_model_len")
        self._arrivals += 1
        sequence.order = self._arrivals
        sequence.arrived_s = now
        if self.constants.latency_s:
            self.coming.append((now + self.constants.latency_s, sequence))
        else:
            self.waiting.append(sequence)

    def abort(self, sequence: Sequence) -> bool:
        """End a sequence now and take its blocks back; False where it had ended already."""
        if sequence.finished is not None:
            return False
        if sequence.table is None:
            if sequence in self.waiting:
                self.waiting.remove(sequence)
            else:
                self.coming = deque(entry for entry in self.coming if entry[1] is not sequence)
        else:
            self.running.remove(sequence)
        self._end(sequence, "abort")
        return True

    def begin(self, now: float) -> Step | None:
        """The next step, or None where nobody is to be served. Each ``begin`` is followed by its ``end``.

        After None, ``next_s`` is when to ask again.
        """
        while self.coming and self.coming[0][0] <= now:
            self.waiting.append(self.coming.popleft()[1])
        work: list[tuple[Sequence, int]] = []
        budget = self.limits.max_num_batched_tokens
        preempted = self.preemptions
        size = self.limits.block_size
        index = 0
        while index < len(self.running):
            sequence = self.running[index]
            tokens = min(sequence.tokens - sequence.computed, budget)
            if tokens == 0:  # the budget is spent: its next chunk waits for a later step
                index += 1
                continue
            table = sequence.table
            assert table is not None
            if len(table.shared) + table.own < -(-sequence.tokens // size) and not self._room(sequence):
                break
            work.append((sequence, tokens))
            budget -= tokens
            index += 1
        if self.preemptions == preempted:
            budget = self._admit(work, budget, now)
        if not work:
            return None
        self.max_running_seen = max(self.max_running_seen, len(self.running))
        # A sequence that has its whole prompt needs one token more; anything beyond that is prefill.
        prefill = sum(n for s, n in work if not s.made or s.tokens - s.computed > 1)
        batch = max(self._batch, len(work)) if self.limits.static_batching else len(work)
        context = sum(n * s.computed + n * (n - 1) // 2 for s, n in work) if self.constants.per_context_token_s else 0
        return Step(work, prefill, self.constants.step_s(batch, prefill, context))

    def end(self, step: Step, now: float) -> Made:
        """Book a step that has just ended; sequences aborted while it ran get nothing of it."""
        gained: list[Sequence] = []
        first: list[Sequence] = []
        ended: list[Sequence] = []
        gaps: dict[float, int] = {}
        tokens = 0
        size = self.limits.block_size
        for sequence, count in step.work:
            if sequence.table is None:
                continue
            tokens += count
            filled_before = sequence.computed // size
            sequence.computed += count
            if sequence.computed <= sequence.prompt_tokens and sequence.computed // size > filled_before:
                self.blocks.publish(sequence.table, sequence.hashes[: sequence.computed // size])
            if sequence.computed < sequence.tokens:
                continue
            sequence.made += 1
            gained.append(sequence)
            if sequence.last_token_s is None:
                sequence.first_token_s = now
                first.append(sequence)
            else:
                gap = now - sequence.last_token_s
                gaps[gap] = gaps.get(gap, 0) + 1
            sequence.last_token_s = now
            if sequence.made >= sequence.output_tokens:
                ended.append(sequence)
        if ended:
            for sequence in ended:
                self._end(sequence, sequence.ends)
            self.running = [s for s in self.running if s.finished is None]
        return Made(gained, first, ended, gaps, tokens)

    def _room(self, sequence: Sequence) -> bool:
        """Make room for the blocks of a running sequence; False where it had to give way itself."""
        assert sequence.table is not None
        needed = -(-sequence.tokens // self.limits.block_size)
        while not self.blocks.grow(sequence.table, needed):
            # `running` stays in order of arrival, and nobody after `sequence` has work yet.
            victim = self.running.pop()
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        assert sequence.table is not None
        self.blocks.release(sequence.table)
        sequence.table = None
        sequence.computed = 0
        self.preemptions += 1
        self.waiting.appendleft(sequence)

    def _admit(self, work: list[tuple[Sequence, int]], budget: int, now: float) -> int:
        if self.limits.static_batching and self.running:
            return budget
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            sequence = self.waiting[0]
            known = self.blocks.known(sequence.hashes)
            table = self.blocks.admit(sequence.hashes[:known], -(-sequence.tokens // self.limits.block_size))
            if table is None:
                break
            self.waiting.popleft()
            sequence.table = table
            sequence.computed = known * self.limits.block_size
            if sequence.scheduled_s is None:
                sequence.scheduled_s = now
                sequence.cached_tokens = sequence.computed
                self.prefix_queries += sequence.prompt_tokens
                self.prefix_hits += sequence.computed
            tokens = min(sequence.tokens - sequence.computed, budget)
            budget -= tokens
            work.append((sequence, tokens))
            self.running.append(sequence)
        self._batch = len(self.running)
        return budget

    def _end(self, sequence: Sequence, finish: Finish) -> None:
        assert sequence.finished is None
        if sequence.table is not None:
            self.blocks.release(sequence.table)
            sequence.table = None
        sequence.finished = finish
