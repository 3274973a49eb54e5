"""What is asked: the prompts and lengths of each workload. Pure: request ``n`` of a seed is always the same.

Lengths come from ``seed``, words from ``salt``: runs that are compared ask for the same lengths at the same times with
other words, so that no run finds the prompts of another in the engine's prefix cache.

A conversation grows: each turn sends all that was said before, the answers as they came. It is at one place at a
time, as a person is: while its answer is being made, others go on.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from headgate.workbench.bench.raw import Plan
from headgate.workbench.bench.trace import Entry
from headgate.workbench.bench.words import Scale, prompt, text

WORKLOADS = ("fixed", "mixed", "shared-prefix", "conversation")

Message = tuple[str, str]
"""Role and text."""

_SIGMA = 0.8
_LONGEST = 6.0
"""Mixed lengths are lognormal around their mean, and no longer than so many times that."""


@dataclass(slots=True)
class Ask:
    """One request. ``keep``: the workload wants the answer's text."""

    messages: list[Message]
    output_tokens: int
    keep: bool = False
    conversation: int = -1
    turn: int = 0


class Workload(Protocol):
    """Makes requests."""

    def ask(self, number: int, caller: str) -> Ask:
        """Request ``number`` of the run."""
        ...

    def ended(self, ask: Ask, caller: str, answer: str | None) -> None:
        """It has ended; ``answer`` is None where it was not answered."""
        ...


@dataclass(slots=True)
class Independent:
    """Fixed, mixed, and shared-prefix: requests that know nothing of each other."""

    plan: Plan
    scale: Scale
    prefixes: list[str] = field(default_factory=list)

    def ask(self, number: int, caller: str) -> Ask:
        """By its number, and its caller's lengths where those are its own."""
        plan = self.plan
        tokens_in, tokens_out = lengths(plan, number, caller)
        messages: list[Message] = []
        dice = random.Random(f"{plan.salt}/{number}")
        if self.prefixes:
            messages.append(("system", dice.choice(self.prefixes)))
        messages.append(("user", prompt(dice, self.scale.words(tokens_in))))
        return Ask(messages, tokens_out)

    def ended(self, ask: Ask, caller: str, answer: str | None) -> None:
        """Nothing follows from it."""


def lengths(plan: Plan, number: int, caller: str = "") -> tuple[int, int]:
    """Tokens in and out of a request."""
    own = next((one for one in plan.callers if one.name == caller), None)
    tokens_in = plan.input_tokens if own is None or own.input is None else own.input
    tokens_out = plan.output_tokens if own is None or own.output is None else own.output
    if plan.workload != "mixed":
        return tokens_in, tokens_out
    dice = random.Random(f"{plan.seed}/lengths/{number}")
    return _drawn(dice, tokens_in), _drawn(dice, tokens_out)


def _drawn(dice: random.Random, mean: int) -> int:
    factor = dice.lognormvariate(-(_SIGMA**2) / 2, _SIGMA)  # whose mean is 1
    return max(1, round(mean * min(factor, _LONGEST)))


@dataclass(slots=True)
class _Conversation:
    number: int
    messages: list[Message] = field(default_factory=list)
    turn: int = 0


class Conversations:
    """Conversations of ``turns`` turns; a new one begins where none that has a turn left is waiting for one."""

    def __init__(self, plan: Plan, scale: Scale) -> None:
        self._plan, self._scale = plan, scale
        self._waiting: dict[str, deque[_Conversation]] = {}
        self._busy: dict[int, _Conversation] = {}
        self._begun = 0

    def ask(self, number: int, caller: str) -> Ask:
        """The next turn of the conversation of this caller that has waited longest."""
        waiting = self._waiting.setdefault(caller, deque())
        if waiting:
            conversation = waiting.popleft()
        else:
            conversation = _Conversation(self._begun)
            self._begun += 1
        plan = self._plan
        dice = random.Random(f"{plan.salt}/{conversation.number}/{conversation.turn}")
        conversation.messages.append(("user", prompt(dice, self._scale.words(plan.input_tokens))))
        conversation.turn += 1
        self._busy[conversation.number] = conversation
        messages = list(conversation.messages)
        return Ask(messages, plan.output_tokens, True, conversation.number, conversation.turn)

    def ended(self, ask: Ask, caller: str, answer: str | None) -> None:
        """An answered conversation goes on; one that was not is given up, as its caller would."""
        conversation = self._busy.pop(ask.conversation)
        if answer is not None and conversation.turn < self._plan.turns:
            conversation.messages.append(("assistant", answer))
            self._waiting[caller].append(conversation)


@dataclass(slots=True)
class Replay:
    """The requests of a trace, in its order."""

    plan: Plan
    scale: Scale
    entries: Sequence[Entry]

    def ask(self, number: int, caller: str) -> Ask:
        """The entry of that number."""
        entry = self.entries[number]
        said = entry.prompt
        if said is None:
            said = prompt(random.Random(f"{self.plan.salt}/{number}"), self.scale.words(entry.prompt_tokens or 1))
        return Ask([("user", said)], entry.output_tokens)

    def ended(self, ask: Ask, caller: str, answer: str | None) -> None:
        """Nothing follows from it."""


def workload(plan: Plan, scale: Scale, entries: Sequence[Entry] = ()) -> Workload:
    """The workload of a plan; ``entries`` of its trace, if it has one."""
    if plan.trace is not None:
        return Replay(plan, scale, entries)
    if plan.workload == "conversation":
        return Conversations(plan, scale)
    prefixes = []
    if plan.workload == "shared-prefix":
        # What an engine adds around a prompt, and the closing, are counted with the rest of it.
        count = max(1, round(plan.prefix_tokens / scale.per_word))
        prefixes = [text(random.Random(f"{plan.salt}/prefix/{i}"), count) for i in range(plan.prefixes)]
    return Independent(plan, scale, prefixes)


def joined(messages: Sequence[Message]) -> str:
    """The same as one text, for /v1/completions."""
    return "\n\n".join(said for _, said in messages)
