"""Stands in for what can't be had with no registry: Grafana, Open WebUI, NVIDIA's exporter.

It is no copy of them. It takes their place in the stack, as far as the stack's own part goes: it is given what they are
given (mounts, variables, a user, a volume), uses it as they do, and answers their health checks. What it finds wrong it
says, and is not healthy.

    python3 stub.py grafana|open-webui|dcgm-exporter
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def fetch(url: str, key: str | None = None) -> bytes:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {key}"} if key else {})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return bytes(answer.read())


def grafana(path: str, authorization: str) -> tuple[int, object]:
    """Reads what is provisioned, and asks the data source."""
    provisioning = Path("/etc/grafana/provisioning")
    source = "\n".join(file.read_text() for file in (provisioning / "datasources").iterdir())
    url = re.findall(r"^\s*url: *\"?([^\s\"]+)", source, re.MULTILINE)[0]
    uid = re.findall(r"^\s*uid: *(\S+)", source, re.MULTILINE)[0]
    providers = "\n".join(file.read_text() for file in (provisioning / "dashboards").iterdir())
    folder = Path(re.findall(r"^\s*path: *(\S+)", providers, re.MULTILINE)[0])
    Path("/var/lib/grafana/written").touch()
    if path == "/api/health":
        return 200, {"database": "ok"}
    user = "admin:" + os.environ["GF_SECURITY_ADMIN_PASSWORD"]
    if authorization != "Basic " + base64.b64encode(user.encode()).decode():
        return 401, {"message": "Invalid username or password"}
    if path == "/api/datasources":
        return 200, [{"id": 1, "uid": uid, "name": "Prometheus", "type": "prometheus", "url": url}]
    if path == f"/api/datasources/uid/{uid}/health":
        fetch(f"{url}/api/v1/query?query=1")
        return 200, {"message": "Successfully queried the Prometheus API.", "status": "OK"}
    if path.startswith("/api/search"):
        return 200, [{"uid": json.loads(file.read_text())["uid"]} for file in sorted(folder.rglob("*.json"))]
    return 404, {}


def open_webui(path: str, _: str) -> tuple[int, object]:
    """Is healthy where it has a model to offer."""
    Path("/app/backend/data/written").touch()
    if path != "/health":
        return 404, {}
    models = json.loads(fetch(os.environ["OPENAI_API_BASE_URL"] + "/models", os.environ["OPENAI_API_KEY"]))
    return (200, {"status": True}) if models["data"] else (503, {"status": False})


def dcgm_exporter(path: str, _: str) -> tuple[int, object]:
    if path == "/metrics":
        return 200, 'DCGM_FI_DEV_GPU_UTIL{gpu="0"} 0\n'
    return (200, "KO") if path == "/health" else (404, {})


PLACES = {"grafana": (3000, grafana), "open-webui": (8080, open_webui), "dcgm-exporter": (9400, dcgm_exporter)}


def main(name: str) -> None:
    port, answer = PLACES[name]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                status, content = answer(self.path, self.headers.get("authorization", ""))
            except Exception as error:
                status, content = 500, {"message": repr(error)}
                print(f"{name}: {self.path}: {error!r}", flush=True)
            body = content.encode() if isinstance(content, str) else json.dumps(content, separators=(",", ":")).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain" if isinstance(content, str) else "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Health checks are not worth a line."""

    ThreadingHTTPServer(("", port), Handler).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
