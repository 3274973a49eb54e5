"""An error reply in the shape that vLLM gives it."""

from __future__ import annotations


class Problem(Exception):
    """An error in vLLM's shape.

    Args:
        status: HTTP status.
        message: one sentence.
        type_: the error's type as vLLM names it.
        param: the field at fault.
    """

    def __init__(self, status: int, message: str, type_: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": type_, "param": param, "code": status}}
