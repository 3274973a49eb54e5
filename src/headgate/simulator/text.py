"""Words, and how many tokens they are. Pure and deterministic: the same prompt gives the same answer.

A token is four bytes of text, so a prompt of ``b`` bytes is ``ceil(b / 4)`` tokens, at least one; the token's
id is those four bytes as a little-endian number, which makes tokenizing reversible. The words of an answer
have three letters and a space before them (but the first), so an answer of ``n`` tokens counts as ``n`` when
it is sent again.
"""

from __future__ import annotations

import hashlib
import math

_BYTES = 4

_WORDS = (
    "all and any arc are ark ash ask bay bed big bow but can cup cut dam day dew dry dug ebb eel elm end "
    "eye fan far fen few fig fir fit fly fog for ford fox gap gem get gum had hay her hip hue hut ice ink "
    "ivy jar jet joy keg key lap law lay led lid lie log low map may mix mud nap net new now nut oak oar "
    "oat odd off old one our out owl own pad pan pat paw pea peg pen pie pin pit pod pot put ram ran raw "
    "ray red reed rib rim rip rod rot row rub rug run rye sad sap sat saw say sea see set sew she shy sip "
    "sir six sky sly sod son sow spa sum sun tan tap tar tea ten the tie tin tip toe ton too top tow toy "
    "try tub tug two urn use van vat vow war was wax way web wet who why win wit woe won yam yaw yes yet "
    "you zip act add age ago aid aim air ale ant ape apt arm art ate awe axe bag ban bar bat bee beg bet "
    "bid bin bit box boy bud bug bun bus buy cab cap car cat cob cod cog cop cot cow cry cub "
)
WORDS = tuple(word for word in _WORDS.split() if len(word) == _BYTES - 1)[:256]
_PIECES = tuple(" " + word for word in WORDS)


def token_count(text: bytes) -> int:
    """Tokens of a text of so many bytes, at least 1."""
    return max(1, -(-len(text) // _BYTES))


def token_ids(text: bytes) -> list[int]:
    """The ids of a text's tokens; the last is padded with zero bytes."""
    return [int.from_bytes(text[i : i + _BYTES], "little") for i in range(0, len(text), _BYTES)]


def from_token_ids(ids: list[int]) -> bytes:
    """The bytes behind token ids, four for each; an id outside 32 bits raises OverflowError."""
    return b"".join(token.to_bytes(_BYTES, "little") for token in ids)


def block_hashes(text: bytes, block_size: int) -> list[int]:
    """One hash for each whole block of the prompt, of everything up to that block's end.

    The last token is left out: a prompt that is known to its end still needs one token computed to go on.
    """
    width = block_size * _BYTES
    chain = 0
    hashes = []
    for end in range(width, (token_count(text) - 1) * _BYTES + 1, width):
        chain = hash((chain, text[end - width : end]))
        hashes.append(chain)
    return hashes


def words(seed: bytes, count: int) -> list[str]:
    """``count`` tokens of text, drawn by a hash of the seed. A shorter answer begins a longer one."""
    drawn = [_PIECES[byte % len(_PIECES)] for byte in hashlib.shake_128(seed).digest(count)]
    if drawn:
        drawn[0] = drawn[0][1:]
    return drawn


def drawn_length(seed: bytes, mean: float, shape: str) -> int:
    """A length in tokens, at least 1, from a distribution with this mean, drawn by a hash of the seed.

    ``geometric`` is what an end drawn at each token gives; ``lognormal`` (sigma 0.8) has the longer tail of
    chats.
    """
    digest = hashlib.shake_128(seed + b"length").digest(16)
    first, second = (
        (int.from_bytes(digest[i : i + 8], "big") + 1) / (2**64 + 2) for i in (0, 8)
    )  # both strictly inside (0, 1)
    if shape == "geometric":
        if mean <= 1:
            return 1
        return max(1, math.ceil(math.log(first) / math.log1p(-1 / mean)))
    sigma = 0.8
    normal = math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second)
    return max(1, round(mean * math.exp(sigma * normal - sigma * sigma / 2)))


def cut_at_stop(pieces: list[str], stops: list[str], min_tokens: int = 0) -> tuple[list[str], str | None]:
    """The pieces up to the first stop string, which is left out, and that string (None where none is met).

    The token that completes a stop string counts as made, so the list keeps its (perhaps empty) piece. A stop
    string that is complete before ``min_tokens`` doesn't count.
    """
    if not stops:
        return pieces, None
    whole = "".join(pieces)
    ends = []
    at = 0
    for piece in pieces:
        at += len(piece)
        ends.append(at)
    best: tuple[int, int, str] | None = None
    for stop in stops:
        start = whole.find(stop) if stop else -1
        while start >= 0:
            token = next(i for i, end in enumerate(ends) if end >= start + len(stop))
            if token + 1 >= min_tokens:
                best = min(best or (token, start, stop), (token, start, stop))
                break
            start = whole.find(stop, start + 1)
    if best is None:
        return pieces, None
    token, start, met = best
    kept = [piece[: max(0, start - (ends[i] - len(piece)))] for i, piece in enumerate(pieces[: token + 1])]
    return kept, met
