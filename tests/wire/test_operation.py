"""What an operator, a balancer and Prometheus ask; and the document that says it all."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric, parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from headgate.api import wishes
from headgate.api.generation import ENDPOINTS
from headgate.api.problems import STATUS
from tests.simulated import Engine
from tests.wire.client import CHAT, MODEL, chat
from tests.wire.gateway import Gateway, gateway, wait_until

ROOT = Path(__file__).parents[2]

PROMISED = {
    *("api_requests", "api_request_latency_seconds", "api_active_requests", "api_queue_depth", "api_max_active"),
    *("api_queue_wait_seconds", "api_time_to_first_token_seconds", "api_inter_token_latency_seconds", "api_tokens"),
    *("api_refusals", "api_cancelled", "api_engine_up", "api_engine_state", "api_engine_requests"),
    *("api_engine_starts", "api_engines_desired", "api_slo_requests", "api_slo_seconds", "api_batch_size"),
    *("api_event_loop_lag_seconds", "api_build_info"),
}


def prometheus(text: str) -> list[Metric]:
    return list(parser.text_string_to_metric_families(text))


def open_metrics(text: str) -> list[Metric]:
    return list(openmetrics_parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def test_metrics_as_prometheus_text_openmetrics_and_json(gate: Gateway) -> None:
    gate.ask()
    gate.ask({})
    text = gate.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in prometheus(text.text)}
    assert set(families) >= PROMISED
    opened = gate.get("/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert opened.headers["content-type"].startswith("application/openmetrics-text")
    assert {family.name for family in open_metrics(opened.text)} >= PROMISED
    for asked in (gate.get("/metrics", accept="application/json"), gate.get("/metrics?format=json")):
        assert asked.headers["content-type"] == "application/json"
        assert set(asked.json()) >= PROMISED
    assert gate.get("/metrics?format=xml").status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/health", "/ready", "/metrics", "/status", "/status?recent=1", "/engines", "/engines/e0/metrics"),
        *("/docs", "/openapi.json", "/v1/models", f"/v1/models/{MODEL}", "/v1/models/none", "/nothing"),
    ],
)
def test_head_is_answered_as_get_without_a_body(gate: Gateway, path: str) -> None:
    """It was 405 on all but the page: a monitor that asks so found a dead gateway."""
    asked = gate.get(path)
    looked = gate.http.head(path)
    assert looked.status_code == asked.status_code
    assert looked.headers["content-type"] == asked.headers["content-type"]
    assert int(looked.headers["content-length"]) > 0
    assert looked.content == b""
    assert gate.get("/health").json()["status"] == "ok", "the next answer on the connection is not read as its body"


def test_head_of_what_has_no_end_is_refused(gate: Gateway) -> None:
    assert gate.http.head("/status/events").status_code == 405
    assert gate.http.head("/v1/chat/completions").status_code == 405


def test_a_histogram_counts_what_it_was_given(gate: Gateway) -> None:
    """One observation for each of these, and one gap less than events."""

    def counts() -> list[float]:
        return [
            gate.metric("api_time_to_first_token_seconds_count"),
            gate.metric("api_request_latency_seconds_count"),
            gate.metric("api_queue_wait_seconds_count", outcome="granted"),
            gate.metric("api_inter_token_latency_seconds_count"),
        ]

    before = counts()
    events = [event for event in gate.ask(chat(20)).events if not event.startswith(b":")]
    gate.until(active=0)
    added = [now - then for now, then in zip(counts(), before, strict=True)]
    assert added == [1, 1, 1, len(events) - 2]  # [DONE] is no event, and the first one has none before it


def test_histogram_has_no_model_that_was_never_counted(gate: Gateway) -> None:
    gate.ask()
    assert gate.ask(chat(model="nobody's")).status == 404
    gate.until(active=0)
    page = gate.get("/metrics").text
    assert f'api_inter_token_latency_seconds_count{{model="{MODEL}"}}' in page
    assert 'api_inter_token_latency_seconds_count{model="other"}' not in page


def test_counts_in_status_are_whole_numbers(gate: Gateway) -> None:
    gate.ask()
    gate.ask({})
    gate.until(active=0)
    seen = gate.status()
    for name in ("generations", "requests", "refusals", "tokens"):
        assert seen[name], name
        assert all(type(count) is int for count in seen[name].values()), name
    assert type(seen["slo"]["results"]["met"]) is int


def test_status_is_one_picture(gate: Gateway) -> None:
    with gate.hold(2):
        seen = gate.status()
    assert (seen["ready"], seen["slots"]["max_active"], seen["slots"]["active"]) == (True, 4, 2)
    assert seen["queue"]["max"] == 8
    assert [engine["state"] for engine in seen["engines"]] == ["ready"]
    assert seen["engines"][0]["in_flight"] == 2


def test_limits_and_each_engines_share_are_metrics_too(gate: Gateway) -> None:
    with gate.hold(3):
        assert gate.metric("api_engine_active_requests", engine="e0") == 3
    assert gate.metric("api_engine_slots", engine="e0") == 4
    assert gate.metric("api_queue_max") == 8
    assert gate.metric("api_queue_timeout_seconds") == 30
    assert gate.metric("api_queue_oldest_wait_seconds") == 0
    page = gate.get("/metrics").text
    for cause in ("start", "crash", "wedged", "operator"):
        assert f'api_engine_starts_total{{cause="{cause}",engine="e0"}}' in page, "a counter is there before it counts"


def test_engines_own_metrics_pass_through(gate: Gateway) -> None:
    answer = gate.get("/engines/e0/metrics")
    assert answer.status_code == 200
    assert "vllm:num_requests_running" in answer.text
    missing = gate.get("/engines/e7/metrics")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


def test_models_are_listed_and_looked_up(gate: Gateway) -> None:
    assert [card["id"] for card in gate.get("/v1/models").json()["data"]] == [MODEL]
    assert gate.get(f"/v1/models/{MODEL}").json()["id"] == MODEL
    assert gate.get("/v1/models/none").status_code == 404


def test_slash_behind_models_changes_nothing(gate: Gateway) -> None:
    assert gate.get("/v1/models/").json() == gate.get("/v1/models").json()


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", CHAT),
        ("/v1/v1/messages", "/v1/messages"),
        (f"{CHAT}/", CHAT),
        ("/embeddings/", "/v1/embeddings"),
        ("/v1/tokenize", "/tokenize"),
        ("/models", "/v1/models"),
        ("/models/a/b", "/v1/models/a/b"),
        ("/status/", "/status"),
        ("/admin/engines/e0/restart/", "/admin/engines/e0/restart"),
    ],
)
def test_path_a_little_beside_ours_is_told_which_was_meant(gate: Gateway, path: str, meant: str) -> None:
    """ "Not Found." was all that a client with a wrong base URL showed."""
    for method in ("GET", "POST"):
        answer = gate.http.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert answer.json()["error"]["message"] == f"{path} is not served here; did you mean {meant}?"


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/", "/v1/sleep", "/v1/threads", "//", "/docs2"])
def test_path_that_is_like_none_of_ours_is_told_nothing_more(gate: Gateway, path: str) -> None:
    for method in ("GET", "POST"):
        answer = gate.http.request(method, f"{gate.http.base_url}".rstrip("/") + path)
        assert (answer.status_code, answer.json()["error"]["message"]) == (404, f"{path} is not served here.")


def test_strange_path_is_said_again_short_and_as_text(gate: Gateway) -> None:
    message = gate.get(f"/%0a%00{'x' * 3000}").json()["error"]["message"]
    assert message.startswith("/\n\0xxx")
    assert len(message) < 400


@pytest.mark.parametrize(
    ("method", "path", "takes", "allow"),
    [
        ("POST", "/health", "GET", "GET, HEAD"),
        ("PUT", "/", "GET", "GET, HEAD"),
        ("DELETE", f"/v1/models/{MODEL}", "GET", "GET, HEAD"),
        ("POST", "/status/events", "GET", "GET"),
        ("GET", "/admin/engines/e0/restart", "POST", "POST"),
        ("OPTIONS", "/console/burst", "POST", "POST"),
        ("GET", CHAT, "POST", "POST"),
    ],
)
def test_wrong_method_is_told_the_right_one(gate: Gateway, method: str, path: str, takes: str, allow: str) -> None:
    answer = gate.http.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    assert answer.json()["error"]["message"] == f"{path} takes {takes}, not {method}."


def test_models_health_and_status_are_answered_while_the_engine_loads() -> None:
    with gateway(None, "--engine-args", "--load-s 60", ready=False) as gate:
        assert [card["id"] for card in gate.get("/v1/models").json()["data"]] == [MODEL]
        assert gate.get("/health").status_code == 200
        ready = gate.get("/ready")
        assert (ready.status_code, ready.json()["reason"]) == (503, "starting")
        assert gate.get("/engines/e0/metrics").status_code == 503
        assert gate.ask(path="/tokenize", body={"model": MODEL, "prompt": "x"}).error["code"] == "engine_unavailable"
        gate.until_counted(1, route="/ready", status="503", reason="engine_unavailable")


def restarted(gate: Gateway) -> dict[str, str]:
    answer = gate.http.post("/admin/engines/e0/restart", headers={"x-api-key": "open-sesame"})
    assert answer.status_code == 202
    told: dict[str, str] = answer.json()
    return told


def test_restart_tells_what_is_going_to_happen(engine: Engine) -> None:
    """It said that the engine was ready, of one that it was about to stop."""
    with gateway(None, "--engine-args", "--load-s 0", "--admin-key", "open-sesame") as gate:
        before = gate.status()["engines"][0]["pid"]
        told = restarted(gate)
        assert (told["engine"], told["was"]) == ("e0", "ready")
        assert told["then"] == "It is stopped now, what runs on it is cut off, and then it is started."
        wait_until(lambda: gate.status()["engines"][0]["pid"] not in (None, before), "another process")
    with gateway(engine, "--admin-key", "open-sesame") as gate:
        assert restarted(gate)["then"].startswith("It is not the gateway's to restart")


def test_request_waits_for_an_engine_that_loads() -> None:
    with gateway(None, "--engine-args", "--load-s 0.5", "--queue-timeout-s", "0.1", ready=False) as gate:
        reply = gate.ask()
        assert reply.status == 200, "QUEUE_TIMEOUT_S stands still while no engine is ready"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in ("/v1/models", f"/v1/models/{MODEL}", "/v1/models/none", "/nothing", CHAT)),
        *(("GET", path) for path in ("/metrics", "/metrics?format=xml", "/engines/e7/metrics", "/status", "/ready")),
        *(("POST", path) for path in ("/health", "/chat/completions", "/admin/engines/e0/restart", "/console/burst")),
    ],
)
def test_every_answer_tells_its_requests_id(gate: Gateway, method: str, path: str) -> None:
    """SDKs read an error's ``request_id`` from there, and of a wrong path or key they found None."""
    made = [gate.http.request(method, path).headers["x-request-id"] for _ in range(2)]
    assert all(id_.startswith("hg-") for id_ in made)
    assert made[0] != made[1]
    own = gate.http.request(method, path, headers={"x-request-id": "mine-7"})
    assert own.headers.get_list("x-request-id") == ["mine-7"]


def test_anthropics_sdks_find_the_id_of_a_refusal_too(gate: Gateway) -> None:
    refused = gate.get("/v1/messages", x_request_id="mine-8")
    assert refused.status_code == 405
    assert refused.headers["request-id"] == "mine-8"
    assert refused.json()["type"] == "error", "it is in their shape"


def test_openapi_lists_every_route(gate: Gateway) -> None:
    document = gate.get("/openapi.json").json()
    assert set(document["paths"]) >= set(ENDPOINTS)
    assert set(document["paths"]) >= {
        *("/health", "/ready", "/metrics", "/status", "/status/events", "/v1/models", "/engines"),
        "/engines/{name}/metrics",
        "/admin/engines/{name}/restart",
    }
    for path, endpoint in ENDPOINTS.items():
        assert document["paths"][path]["post"]["summary"] == endpoint.summary
    identifiers = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(set(identifiers)) == len(identifiers)
    assert gate.get("/docs").status_code == 200


def test_openapi_has_every_path_of_the_docs_and_no_other(gate: Gateway) -> None:
    documented = {
        (method, path.partition("?")[0])
        for row in re.findall(r"^\| (`(?:GET|POST) /.*?) \|", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
        for method in re.findall(r"GET|POST", row)
        for path in re.findall(r"(/[^`, ]*)", row)
    }
    documented |= {("POST", path) for path in ("/tokenize", "/detokenize", "/v1/messages/count_tokens")}
    documented -= {("GET", "/openapi.json"), ("GET", "/docs")}
    said = {
        (method.upper(), path.replace("{model}", "{id}"))
        for path, methods in gate.get("/openapi.json").json()["paths"].items()
        for method in methods
    }
    assert said == documented


def test_openapi_says_what_a_chat_may_send_and_how_it_may_be_refused(gate: Gateway) -> None:
    chat = gate.get("/openapi.json").json()["paths"][CHAT]["post"]
    assert {each["name"] for each in chat["parameters"]} == {
        "x-request-id",
        *(name.decode() for name in wishes.HEADERS if name.startswith(b"x-headgate")),
    }
    assert set(chat["responses"]) == {"200", *(str(status) for status in STATUS.values()), "405"}
    tokenize = gate.get("/openapi.json").json()["paths"]["/tokenize"]["post"]
    assert set(tokenize["responses"]) == set(chat["responses"]), "of these too there may be too many at once"
    fields = chat["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert set(fields) == {"model", "messages", "stream", "stream_options", "n"}


def test_openapi_says_where_a_key_is_wanted(gate: Gateway, engine: Engine) -> None:
    def wanted(document: dict[str, Any], path: str) -> list[str]:
        (operation,) = document["paths"][path].values()
        names = [name for each in operation.get("security", ()) for name in each]
        assert set(names) <= set(document["components"]["securitySchemes"])
        assert not names or {"401", "403"} <= set(operation["responses"])
        return names

    paths = (CHAT, "/tokenize", "/v1/models", "/console/burst", "/", "/status", "/metrics", "/engines/{name}/metrics")
    admin = "/admin/engines/{name}/restart"
    document = gate.get("/openapi.json").json()
    assert {path: wanted(document, path) for path in paths if wanted(document, path)} == {}
    assert wanted(document, admin) == ["bearer", "x-api-key"]
    with gateway(engine, "--api-key", "sesame", "--ops-auth", "key") as closed:
        document = closed.get("/openapi.json", x_api_key="sesame").json()
        for path in paths[:4]:
            assert wanted(document, path) == ["bearer", "x-api-key"], path
        for path in (*paths[4:], "/status/events", "/engines"):
            assert wanted(document, path) == ["bearer", "x-api-key", "basic"], path
        for path in ("/health", "/ready"):
            assert wanted(document, path) == []


@pytest.mark.parametrize("path", list(ENDPOINTS))
def test_every_endpoint_of_the_list_is_there(gate: Gateway, path: str) -> None:
    reply = gate.ask({}, path)
    assert reply.status in (400, 415)
    gate.until_counted(gate.metric("api_requests_total", route=path), route=path)
    assert gate.metric("api_requests_total", route=path) >= 1


def test_routes_in_metrics_are_templates_or_other(gate: Gateway) -> None:
    for path in ("/v1/models/some/thing", "/nothing/at/all", "/engines/e5/metrics"):
        gate.get(path)
    routes = {
        sample.labels["route"]
        for family in prometheus(gate.get("/metrics").text)
        if family.name == "api_requests"
        for sample in family.samples
    }
    known = {*ENDPOINTS, "/v1/models/{model:path}", "/engines/{name}/metrics", "/admin/engines/{name}/restart"}
    known |= {"/", "/health", "/ready", "/metrics", "/status", "/status/events", "/engines", "/v1/models", "other"}
    known |= {"/docs", "/openapi.json", "/console/burst"}
    assert routes <= known, routes - known


def test_start_to_health_is_measured(engine: Engine, record_property: Any) -> None:
    """Printed, not judged: this machine may be busy with anything."""
    began = time.monotonic()
    with gateway(engine, ready=False) as gate:
        wait_until(lambda: gate.get("/health").status_code == 200, "health")
        took_s = time.monotonic() - began
    record_property("start_s", took_s)
    print(f"from start to /health: {took_s:.2f} s")
