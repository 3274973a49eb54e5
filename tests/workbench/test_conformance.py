"""``headgate conformance``: Headgate passes, a gateway that breaks a claim does not, and the table says so."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
from pathlib import Path
from types import NoneType
from typing import Any

import pytest
from click.testing import CliRunner

from headgate.cli import main
from headgate.workbench.conformance import caller as caller_
from headgate.workbench.conformance.caller import WAYS, Address, Caller, Reply, Way, request
from headgate.workbench.conformance.claims import CLAIMS, chosen
from headgate.workbench.conformance.peers import Stand, by_command
from headgate.workbench.conformance.promises import BRISK, Promises, of_status
from headgate.workbench.conformance.report import Report, as_json, in_short
from headgate.workbench.conformance.site import told_of_longer_wait
from headgate.workbench.conformance.verdict import Result, Verdict
from tests.tools import tool
from tests.workbench.running import Ran, environment, gateway

ROOT = Path(__file__).parents[2]
FLAWED = f"{sys.executable} -m tests.workbench.flawed_gateway {{port}} {{engine_port}}"
PROMISES = ("--max-active", "4", "--queue-max", "16", "--queue-timeout", "10")
FLAWS = {
    "no-cap": ("cap-burst", "the cap is 4"),
    "lost-slots": ("leave-streaming-reset", "0 of 4 slots back"),
    "runs-on": ("leave-streaming-close", "still on the engine"),
    "newest-first": ("order", "served as 12, 11, 10"),
    "looks-whole": ("engine-cut", "look like whole ones"),
    "doubles": ("text", "40 of 40 differ"),
    "plain-refusals": ("refusal-shape", "not OpenAI's error"),
}


def conformance(*arguments: str, within_s: float = 60.0) -> Ran:
    done = subprocess.run(
        [sys.executable, "-m", "headgate", "conformance", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(COLUMNS="80", PYTHONPATH=str(ROOT)),
        timeout=within_s,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def verdicts(ran: Ran) -> dict[str, dict[str, Any]]:
    return {result["case"]: result for result in json.loads(ran.out)["results"]}


@pytest.mark.parametrize(
    ("status", "headers", "promised_s", "rightful"),
    [
        (429, {"retry-after": "10"}, 10.0, True),
        (503, {"retry-after": "11", "retry-after-ms": "10400"}, 10.0, True),
        (429, {"retry-after": "9"}, 10.0, False),
        (429, {"retry-after": "10", "retry-after-ms": "9400"}, 10.0, False),
        (429, {}, 10.0, False),
        (429, {"retry-after": "soon"}, 10.0, False),
        (408, {"retry-after": "60"}, 10.0, False),
        (429, {"retry-after": "60"}, None, False),
    ],
)
def test_a_refusal_on_arrival_breaks_no_promise_to_wait_where_it_tells_of_a_longer_wait(
    status: int, headers: dict[str, str], promised_s: float | None, rightful: bool
) -> None:
    """Found with a real vLLM, whose held slots Headgate forecasts to come free too late: `wait_too_long` is right."""
    reply = Reply()
    reply.status, reply.headers, reply.complete = status, headers, True
    assert told_of_longer_wait(reply, promised_s) is rightful


@pytest.mark.parametrize("way", WAYS)
def test_a_client_reads_and_leaves_in_every_way_over_tls_too(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway behind TLS could not be tried at all."""
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    command = [tool("openssl"), "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out"]
    subprocess.run([*command, str(certificate)], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    caller_._trusted.cache_clear()  # those of another test
    trusted = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trusted.load_cert_chain(certificate, key)
    body = b"x" * 200_000
    left: list[BaseException | None] = []

    async def scenario() -> None:
        gone = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST /v1/chat/completions ")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            await reader.readexactly(2)
            try:
                left.append(None if await reader.read() == b"" else AssertionError())
            except OSError as error:
                left.append(error)
            gone.set()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=trusted)
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1], tls=True)
        caller = await Caller.connect(address)
        await caller.send(request(address, {}, None))
        assert bytes((await caller.whole(20)).body) == body
        caller.leave(way)
        await asyncio.wait_for(gone.wait(), 20)
        caller.close()
        server.close()

    asyncio.run(scenario())
    assert isinstance(left[0], ConnectionResetError if way == "reset" else NoneType)


def test_headgate_keeps_what_can_be_seen_in_seconds() -> None:
    only = "cap-,order,leave-queued-close,leave-waiting-half-close,leave-streaming-reset,error-event"
    ran = conformance("--start", "headgate", "--only", only, "--json")
    assert ran.status == 0, ran.err
    assert {result["verdict"] for result in verdicts(ran).values()} == {"pass"}, ran.err
    assert json.loads(ran.out)["pass"] == 7


def test_gateway_that_loses_slots_fails_and_the_table_says_how_to_see_it_again() -> None:
    ran = conformance("--start-command", f"{FLAWED} lost-slots", *PROMISES, "--only", "leave-streaming-reset")
    assert ran.status == 1, ran.err
    assert "FAIL" in ran.out
    assert "0 of 4 slots back" in " ".join(ran.out.split())
    assert "0 passed, 1 failed, 0 not applicable" in ran.out
    assert "--only leave-streaming-reset" in ran.out.splitlines()[-1]


@pytest.mark.conformance
@pytest.mark.parametrize("flaw", FLAWS)
def test_every_flaw_is_found_by_its_case(flaw: str) -> None:
    case, said = FLAWS[flaw]
    ran = conformance("--start-command", f"{FLAWED} {flaw}", *PROMISES, "--only", case, "--streams", "40", "--json")
    assert ran.status == 1, ran.err
    assert verdicts(ran)[case]["verdict"] == "fail"
    assert said in verdicts(ran)[case]["said"]


@pytest.mark.conformance
def test_the_same_gateway_without_a_flaw_passes_those_cases() -> None:
    only = ",".join(case for case, _ in FLAWS.values())
    ran = conformance("--start-command", FLAWED, *PROMISES, "--only", only, "--streams", "40", "--json")
    assert ran.status == 0, ran.err


@pytest.mark.conformance
def test_headgate_passes_every_case() -> None:
    ran = conformance("--start", "headgate", "--json", within_s=240.0)
    assert ran.status == 0, ran.err
    assert {name: result["said"] for name, result in verdicts(ran).items() if result["verdict"] != "pass"} == {}
    assert len(verdicts(ran)) == len(CLAIMS)


def test_cases_are_chosen_by_name_or_by_how_it_begins() -> None:
    assert [claim.name for claim in chosen(["leave-queued"])] == [
        "leave-queued-close",
        "leave-queued-half-close",
        "leave-queued-reset",
    ]
    assert chosen([]) == list(CLAIMS)
    with pytest.raises(ValueError, match="no case 'slots'"):
        chosen(["slots"])


def test_a_stream_that_breaks_off_never_counts_as_ended_well() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    words = b'data: {"choices":[{"delta":{"content":"so"}}]}\n\n'
    error = b'data: {"error":{"message":"no","type":"x"}}\n\n'

    def reply(*parts: bytes, end: bytes = b"0\r\n\r\n") -> Reply:
        made = Reply()
        made.parser.feed_data(head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + end)
        return made

    assert reply(words, words).ended_well
    assert reply(words, words).text == "soso"
    assert not reply(words, end=b"").ended_well
    assert not reply(words, error).ended_well
    assert reply(words, error).error == {"message": "no", "type": "x"}


def test_requests_go_where_the_gateway_is() -> None:
    raw = request(Address("127.0.0.1", 8080, "/team"), {"model": "m"}, "secret")
    assert raw.startswith(b"POST /team/v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:8080\r\n")
    assert b"authorization: Bearer secret" in raw
    assert raw.endswith(b'\r\n\r\n{"model": "m"}')
    assert b"\r\nhost: [::1]:8080\r\n" in request(Address("::1", 8080), {}, None)


def test_a_url_as_sdks_are_given_it_is_asked_for_its_promises(tmp_path: Path) -> None:
    """With /v1 behind it no /status was found, so nothing was promised, and next to nothing tried: status 0."""
    with gateway(tmp_path, "--max-active", "1", "--queue-max", "2", "--engine-args", "--load-s 0") as url:
        ran = conformance(f"{url}/v1/", "--only", "refusal-status", "--json")
    assert "It is held to: 1 slots, a line of 2," in ran.err
    assert verdicts(ran)["refusal-status"]["verdict"] == "pass"


def test_promises_are_read_from_headgates_status_and_a_person_may_say_otherwise() -> None:
    status = {"slots": {"max_active": 3}, "queue": {"mode": "queue", "max": 64, "timeout_s": 30.0}}
    limits = {"limits": {"request_timeout_s": 300.0, "send_stall_s": 30.0}}
    found = of_status(status | limits)
    assert (found.max_active, found.queue_max, found.queue_timeout_s) == (3, 64, 30.0)
    assert (found.request_timeout_s, found.hang_s, found.stall_s) == (300.0, 300.0, 30.0)
    assert found.but(Promises(max_active=2)).max_active == 2
    assert found.first_come, "this status names no order"
    fair = of_status({"queue": {"mode": "queue", "max": 64, "order": "fair"}})
    assert fair.but(Promises(max_active=2)).first_come is None, "somebody else may be served first"
    assert of_status({"queue": {"mode": "reject", "max": 64}}).queue_max == 0, "nobody waits"


def test_a_command_of_ones_own_promises_what_it_is_given(tmp_path: Path) -> None:
    stand = Stand(8080, 8081, 8000, "m", BRISK, tmp_path)
    launch = by_command("mine --port {port} --to {engine_url} --slots {max_active}", stand)
    assert list(launch.argv) == ["mine", "--port", "8080", "--to", "http://127.0.0.1:8000", "--slots", "4"]
    assert launch.promises == Promises(max_active=4)
    with pytest.raises(ValueError, match="slots"):
        by_command("mine {slots}", stand)


def test_report_counts_and_is_json() -> None:
    results = [
        Result("order", "first", Verdict.PASS, "12 served", {"order": [0]}, 1.0),
        Result("text", "bytes", Verdict.FAIL, "2 differ", {"wrong": 2}, 2.0),
        Result("drain", "end", Verdict.NOT_APPLICABLE, "not ours", {}, 0.0),
    ]
    report = Report("mine", "1.2", "scripted", "0.1", results)
    assert in_short(report) == "mine 1.2: 1 passed, 1 failed, 1 not applicable, in 3.0 s"
    said = json.loads(as_json(report))
    assert (said["pass"], said["fail"], said["not_applicable"]) == (1, 1, 1)
    assert said["results"][1]["evidence"] == {"wrong": 2}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "give one of"),
        (("http://127.0.0.1:1", "--start", "headgate"), "give one of"),
        (("ftp://gateway.example",), "begin with http:// or https://"),
        (("http://[::1",), "cannot be read"),
        (("http://127.0.0.1:99999",), "cannot be read"),
        (("--start", "headgate", "--engine-port", "8000"), "go with a URL"),
        (("--start", "headgate", "--only", "slots"), "no case 'slots'"),
        (("--start", "nginx"), "Invalid value"),
    ],
)
def test_bad_arguments_are_status_2(arguments: tuple[str, ...], why: str) -> None:
    ran = CliRunner().invoke(main, ["conformance", *arguments])
    assert ran.exit_code == 2
    assert why in ran.output


def test_help_fits_a_screen() -> None:
    shown = CliRunner().invoke(main, ["conformance", "--help"], terminal_width=110).output.splitlines()
    assert len(shown) <= 40
    assert max(map(len, shown)) <= 110


def test_gateway_that_cannot_be_tried_is_status_3() -> None:
    ran = conformance("http://127.0.0.1:9", "--max-active", "4", "--model", "m", "--only", "order")
    assert ran.status == 3
    assert "could not be tried" in ran.err


def test_every_claim_is_documented() -> None:
    page = (ROOT / "docs/conformance.md").read_text()
    for claim in CLAIMS:
        assert f"| `{claim.name}` | {claim.says} |" in page
