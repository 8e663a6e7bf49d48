"""HTTP, asked by a program that makes requests of the description that the server gives of itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from harness.command import run
from harness.outcome import Failed, Skipped
from harness.step import step
from harness.world import World

# What is asked of every answer: that it is one of those described, and never a failure of the server. 501 and
# 503 are described; that other parts of Lighthouse are not here is no failure.
CHECKS = "status_code_conformance,content_type_conformance,response_schema_conformance"


def _schemathesis(world: World) -> Path:
    venv = world.scratch / "schemathesis"
    program = venv / "bin" / "schemathesis"
    made = run([sys.executable, "-m", "venv", venv], timeout=world.time_left(), codes=None)
    if made.code == 0:
        pip = [venv / "bin" / "pip", "install", "--quiet", "schemathesis==4.*"]
        run(pip, timeout=world.time_left(), codes=None)
    if not program.exists():
        raise Skipped("schemathesis cannot be installed")
    return program


@step("http-schema", smoke=240, full=600, served=True, main=False)
def http_schema(world: World) -> str:
    """Is every answer over HTTP one that /openapi.json describes?"""
    program = _schemathesis(world)
    home = world.scratch / "http"
    home.mkdir()
    environment = {
        "LIGHTHOUSE_PORT": "0",
        "LIGHTHOUSE_EVENT_STORE_PATH": str(home / "events"),
        "LIGHTHOUSE_PROJECT_PATH": str(home / "none"),
        "LIGHTHOUSE_DISABLE_FUSE": "1",
        "PATH": "/usr/bin:/bin",
    }
    server = subprocess.Popen(
        [world.binary, "serve"], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        said = server.stderr.readline()
        url = said.strip().removeprefix("listening on ")
        if not url.startswith("http://"):
            raise Failed(f"the server said {said!r}")
        body = {"agent_id": "schema", "ip_address": "", "user_agent": ""}
        request = urllib.request.Request(
            f"{url}/session/create",
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            token = json.load(answer)["session_token"]
        asked = [
            program, "run", f"{url}/openapi.json",
            "--header", f"Authorization: Bearer {token}",
            "--checks", CHECKS,
            "--exclude-path", "/events/stream",
            "--max-examples", "20",
            "--request-timeout", "20",
            "--seed", "1",
        ]
        done = run(asked, timeout=world.time_left(), codes=None)
        if done.code != 0:
            raise Failed(done.output[-4000:])
        return done.stdout.strip().splitlines()[-1].strip("= ")
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()


STEPS = (http_schema,)
