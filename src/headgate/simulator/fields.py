"""A request body's fields, read with the type that they must have. Raises Problem (400) in vLLM's shape."""

from __future__ import annotations

from typing import Any, NoReturn

from headgate.simulator import text
from headgate.simulator.problem import Problem


class Fields:
    """A JSON object; null counts as absent, and unknown fields as nothing."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def any(self, name: str) -> Any:
        """Whatever is there."""
        return self.values.get(name)

    def text(self, name: str) -> str | None:
        """A string."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            wrong(name, "Input should be a valid string")
        return value

    def flag(self, name: str) -> bool:
        """A boolean, false where absent."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            wrong(name, "Input should be a valid boolean")
        return bool(value)

    def integer(self, name: str, minimum: int = 0) -> int | None:
        """An integer of at least ``minimum``."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0:  # inf and nan leave nan
            wrong(name, "Input should be a valid integer")
        if value < minimum:
            wrong(name, f"{name} must be at least {minimum}, got {value}.")
        return int(value)

    def texts(self, name: str) -> list[str]:
        """A string or a list of strings; empty where absent."""
        value = self.values.get(name)
        if value is None:
            return []
        if isinstance(value, str):
            return [value]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            wrong(name, "Input should be a valid string or a list of strings")
        return value

    def inner(self, name: str) -> Fields:
        """An object; an empty one where absent."""
        value = self.values.get(name)
        if value is None:
            return Fields({})
        if not isinstance(value, dict):
            wrong(name, "Input should be a valid dictionary")
        return Fields(value)

    def prompts(self, name: str) -> list[bytes]:
        """Prompts: a string, strings, token ids or lists of them. At least one, none of them empty."""
        value = self.values.get(name)
        if value is None:
            wrong(name, "Field required")
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not value:
            wrong(name, "Either a text or a list of texts or of token ids is needed, and not an empty one.")
        if isinstance(value[0], int):
            value = [value]
        return [_prompt(name, item) for item in value]


def _prompt(name: str, item: object) -> bytes:
    if isinstance(item, str):
        return item.encode("utf-8", "surrogatepass")
    if not isinstance(item, list) or not item:
        wrong(name, "Input should be a valid string or a list of token ids")
    try:
        return text.from_token_ids(item)
    except (AttributeError, OverflowError):
        wrong(name, "Token id is out of vocabulary")


def rendered(messages: object, extra: object = None) -> bytes:
    """The prompt that a conversation becomes, tools and the like included as they were sent.

    Raises Problem (400) where it is no list of messages.
    """
    if not isinstance(messages, list) or not messages:
        wrong("messages", "Input should be a valid list of at least one message")
    parts = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            wrong("messages", "Each message needs a role")
        parts.append(f"<|{message['role']}|>{flattened(message.get('content'))}\n")
    if extra:
        parts.insert(0, f"{extra}\n")
    return ("".join(parts) + "<|assistant|>").encode("utf-8", "surrogatepass")


def flattened(content: object) -> str:
    """The text of a message's content: a string, or a list of parts, those without text as they are."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        wrong("messages", "content should be a string or a list of parts")
    return "".join(part["text"] if isinstance(part, dict) and "text" in part else str(part) for part in content)


def wrong(name: str, message: str) -> NoReturn:
    """Refuse a field."""
    raise Problem(400, f"{name}: {message}", "Bad Request", name)
