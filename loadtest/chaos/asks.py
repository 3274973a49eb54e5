"""What request number so and so is: how long, streamed or whole, and what its client does. Drawn by a hash.

A number and a seed give it again, in whatever order requests are sent. What the simulated engine will answer is known
here too, to the letter: it draws its words by a hash of the prompt.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from headgate.simulator import text
from headgate.simulator.fields import rendered

MODEL = "headgate-simulated"
PATH = "/v1/chat/completions"
Mood = Literal["calm", "storm", "slow", "big"]
Way = Literal["stay", "close", "reset", "half_close", "slow_read", "slow_send"]
Moment = Literal["at once", "soon", "first byte", "mid-stream"]
LEAVING: tuple[Way, ...] = ("close", "reset", "half_close")
MOMENTS: tuple[Moment, ...] = ("at once", "soon", "first byte", "mid-stream")
_LEAVES = {"calm": 13, "storm": 230, "slow": 13, "big": 64}
"""Of 256."""
_SHORT = (1, 1, 2, 2, 3, 4, 6, 8)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. ``pause_s`` is how long its client waits where it leaves soon, reads slowly or sends slowly."""

    number: int
    stream: bool
    tokens: int
    padding: int
    way: Way
    moment: Moment
    pause_s: float

    @property
    def leaves(self) -> bool:
        return self.way in LEAVING

    @property
    def _content(self) -> str:
        return f"request {self.number}" + " x" * (self.padding // 2)

    def expected(self) -> str:
        """The answer's text, whole."""
        prompt = rendered([{"role": "user", "content": self._content}])
        return "".join(text.words(prompt + b"\x000", self.tokens))

    def head_and_body(self) -> tuple[bytes, bytes]:
        stream = "true" if self.stream else "false"
        body = (
            f'{{"model":"{MODEL}","messages":[{{"role":"user","content":{json.dumps(self._content)}}}],'
            f'"max_tokens":{self.tokens},"stream":{stream}}}'
        ).encode()
        head = (
            f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"x-request-id: chaos-{self.number}\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode()
        return head, body


def ask(seed: int, number: int, mood: Mood) -> Ask:
    dice = hashlib.blake2b(b"%d:%d" % (seed, number), digest_size=8).digest()
    leaves = dice[0] < _LEAVES[mood]
    way: Way = "stay"
    if leaves:
        way = LEAVING[dice[1] % len(LEAVING)]
    elif mood == "slow":
        way = ("slow_read", "slow_send")[dice[1] % 2]
    moment = MOMENTS[dice[2] % len(MOMENTS)]
    stream = dice[3] < 128 or (leaves and moment == "mid-stream")
    tokens = _SHORT[dice[4] % len(_SHORT)]
    if (leaves and moment == "mid-stream") or dice[5] == 0:
        tokens = 200 + dice[4]
    padding = 4_000 if dice[6] < 3 else 0
    if mood == "big" and dice[6] < 24:
        padding = (1 + dice[6] % 6) * 256 * 1024
    return Ask(number, stream, tokens, padding, way, moment, dice[7] / 256 * (0.02 if leaves else 0.5))
