"""What a start says to the person who started it: on standard output, and in the log."""

from __future__ import annotations

import json

from tests.wire.gateway import gateway


def test_variable_that_lacks_the_prefix_is_told_of_once_without_its_value() -> None:
    """The gateway was open with a key set, as somebody thought, and said nothing."""
    with gateway("http://127.0.0.1:9", env={"API_KEY": "very-secret", "PORT": "9"}, ready=False) as gate:
        assert gate.status()["auth"]["generation"] == "open"
        lines = [json.loads(line) for line in gate.log().splitlines()]
        said = [line for line in lines if "API_KEY" in line["message"]]
        assert [(line["level"], line["message"].rpartition("; ")[2]) for line in said] == [
            ("warning", "set HEADGATE_API_KEY")
        ]
        assert "very-secret" not in gate.log()
