"""`lighthouse-fuse serve` in a directory of its own, and whoever asks it over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from harness.command import Argument
from harness.outcome import Failed, require
from harness.world import World

PATIENCE = 30.0


@dataclass(frozen=True)
class Answer:
    """One answer over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """Asks over one connection that is kept, in the name of whoever has `token`."""

    def __init__(self, address: str, token: str | None = None) -> None:
        self.token = token
        self._connection = http.client.HTTPConnection(address, timeout=PATIENCE)

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Sends a request, its path as it is to be on the wire, and reads the whole answer."""
        sent = dict(headers or {})
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        self._connection.request(method, path, body or None, sent)
        answer = self._connection.getresponse()
        body = answer.read()
        return Answer(answer.status, {name.lower(): text for name, text in answer.getheaders()}, body)


@dataclass(frozen=True)
class Served:
    """A running server: its address, its store and its mount point."""

    address: str
    store: Path
    mountpoint: Path

    @property
    def current(self) -> Path:
        """The live tree in the mount."""
        return self.mountpoint / "current"

    def session(self, agent: str, headers: Mapping[str, str] | None = None) -> str:
        """The token of a new session."""
        body = json.dumps({"agent_id": agent, "ip_address": "", "user_agent": ""}).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        answer = Connection(self.address).ask("POST", "/session/create", body, sent)
        require(answer.status == 200, f"no session for {agent}: {answer}")
        token: str = json.loads(answer.body)["session_token"]
        return token


def url(path: str) -> str:
    """A path of the tree as it stands in a URL."""
    return quote(path, safe="/")


@contextmanager
def serve(
    world: World, name: str, *, mount: bool, environment: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Serves a new store until the end of the block; then the server must end by itself, with 0, when it is told to."""
    home = world.scratch / name
    home.mkdir()
    mountpoint = home / "at"
    variables = {
        "LIGHTHOUSE_PORT": "0",
        "LIGHTHOUSE_EVENT_STORE_PATH": str(home / "events"),
        "LIGHTHOUSE_PROJECT_PATH": str(home / "none"),
        "LIGHTHOUSE_MOUNT_POINT": str(mountpoint),
        "LIGHTHOUSE_DISABLE_FUSE": "0" if mount else "1",
        "PATH": "/usr/bin:/bin",
        **(environment or {}),
    }
    argv: list[Argument] = [world.binary, "serve"]
    print(f"$ {name}: serve &", flush=True)
    with (home / "log").open("wb") as log:
        reader, writer = os.pipe()
        server = subprocess.Popen(argv, env=variables, stdin=subprocess.DEVNULL, stderr=writer)
        os.close(writer)
        try:
            with os.fdopen(reader) as said:
                address = ""
                wanted = "serving " if mount else "listening on "
                for line in said:
                    log.write(line.encode())
                    address = line.strip().removeprefix("listening on http://") if not address else address
                    if line.startswith(wanted):
                        break
                else:
                    raise Failed(f"the server ended with {server.wait()}: {(home / 'log').read_text()}")
                yield Served(address, home / "events" / "store", mountpoint)
                server.send_signal(signal.SIGTERM)
                log.write(said.read().encode())
            code = server.wait(timeout=PATIENCE)
            require(code == 0, f"the server ended with {code} after SIGTERM")
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()
