"""HTTP: asked by a program that makes requests of the server's own description, and by everybody at once."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from harness.command import run
from harness.outcome import Failed, Skipped, require
from harness.served import Connection, Served, serve, url
from harness.step import step
from harness.world import World

# What is asked of every answer: that it is one of those described, and never a failure of the server. 501 and
# 503 are described; that other parts of Lighthouse are not here is no failure.
CHECKS = "status_code_conformance,content_type_conformance,response_schema_conformance"

# Seconds until a program that talks to the server counts as hung.
HUNG = 60.0

# Everybody changes what is under these in `shared`; each is an odd name in its own way.
NAMES = ("plain", "two words", "ünïcode", "100%41", "a#b?c&d", "+", "dir")


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
    with serve(world, "http-schema", mount=False) as served:
        asked = [
            program, "run", f"http://{served.address}/openapi.json",
            "--header", f"Authorization: Bearer {served.session('schema')}",
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


class _Together:
    """Clients that change one tree at once, each in a thread, until the time is over or one of them fails."""

    def __init__(self, served: Served, seed: int, seconds: float, aside: Path) -> None:
        self.served = served
        self.seed = seed
        self.until = time.monotonic() + seconds
        self.aside = aside
        self.turns: dict[str, int] = {}
        self.failures: list[str] = []
        self.over = threading.Event()

    def run(self, clients: dict[str, Callable[[_Together, str, random.Random], Iterator[None]]]) -> None:
        threads = [
            threading.Thread(target=self._client, args=(name, client), name=name)
            for name, client in clients.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.over.set()
        require(not self.failures, "; ".join(self.failures))
        idle = [name for name, turns in self.turns.items() if turns == 0]
        require(not idle, f"{', '.join(idle)} did nothing in all the time")

    def _client(
        self, name: str, client: Callable[[_Together, str, random.Random], Iterator[None]]
    ) -> None:
        self.turns[name] = 0
        try:
            # Each turn ends with the client's tree as it says it is.
            for _ in client(self, name, random.Random(f"{self.seed} {name}")):
                self.turns[name] += 1
                if time.monotonic() > self.until or self.failures:
                    return
        except Exception as err:  # noqa: BLE001: whatever it is, it is this client's
            self.failures.append(f"{name}: {type(err).__name__} {err}")

    def connection(self, name: str) -> Connection:
        return Connection(self.served.address, self.served.session(name))


def _content(rng: random.Random) -> bytes:
    # Long ones are staged, short ones travel in the event.
    return rng.randbytes(rng.choice((0, 5, 700, 9_000, 70_000, 1_500_000 if rng.random() < 0.1 else 3)))


def _answered(answer_status: int, allowed: tuple[int, ...], what: str) -> None:
    require(answer_status in allowed, f"{what} was answered with {answer_status}")


def _over_files(all_: _Together, name: str, rng: random.Random) -> Iterator[None]:
    """PUT, GET and DELETE at /files/, with conditions."""
    agent = all_.connection(name)
    while True:
        own = f"/files/{name}/{rng.randrange(30)}/{url(rng.choice(NAMES))}"
        content = _content(rng)
        put = agent.ask("PUT", f"{own}?parents=true", content)
        _answered(put.status, (201, 204), f"PUT {own}")
        got = agent.ask("GET", own)
        require((got.status, got.body) == (200, content), f"GET {own} is not what was PUT: {got.status}")
        tag = got.headers["etag"]
        again = agent.ask("PUT", own, b"2", {"If-Match": tag})
        _answered(again.status, (204,), f"PUT {own} if it is {tag}")
        old = agent.ask("PUT", own, b"3", {"If-Match": tag})
        _answered(old.status, (412,), f"PUT {own} if it still is {tag}")
        if rng.random() < 0.5:
            _answered(agent.ask("DELETE", own).status, (204,), f"DELETE {own}")
        shared = f"/files/shared/{url(rng.choice(NAMES))}"
        method, body = rng.choice((("PUT", content), ("DELETE", b""), ("GET", b"")))
        _answered(agent.ask(method, shared, body).status, (200, 201, 204, 404, 409), f"{method} {shared}")
        yield


def _over_curl(all_: _Together, name: str, rng: random.Random) -> Iterator[None]:
    """curl at /files/ and /dav/, one process for each request."""
    token = all_.served.session(name)
    base = f"http://{all_.served.address}"
    body = all_.aside / f"{name}.body"
    while True:
        body.write_bytes(_content(rng))
        place = rng.choice(("files", "dav"))
        own = f"{base}/{place}/{name}/{rng.randrange(20)}"
        parents = f"{base}/files/{name}/"
        common = ["curl", "-sS", "--max-time", "50", "-H", f"Authorization: Bearer {token}", "-o", "-"]
        run([*common, "-f", "-X", "PUT", parents], timeout=HUNG)
        run([*common, "-f", "-T", body, own], timeout=HUNG)
        got = subprocess.run([*common, "-f", own], capture_output=True, timeout=HUNG, check=True)
        require(got.stdout == body.read_bytes(), f"curl got other bytes from {own} than it sent")
        if rng.random() < 0.4:
            run([*common, "-f", "-X", "DELETE", own], timeout=HUNG)
        yield


def _over_browser(all_: _Together, name: str, rng: random.Random) -> Iterator[None]:
    """A page: a preflight, then listings, parts and what it has already, events as they come, and events it makes."""
    origin = {"Origin": "http://localhost:3000", "Accept-Encoding": "gzip, deflate, br"}
    token = all_.served.session(name, origin)
    agent = Connection(all_.served.address, token)
    follower = threading.Thread(target=_follow, args=(all_, token), daemon=True)
    follower.start()
    made = 0
    while True:
        preflight = agent.ask(
            "OPTIONS", "/event/store", b"", {**origin, "Access-Control-Request-Method": "POST"}
        )
        _answered(preflight.status, (200,), "a preflight")
        listed = agent.ask("GET", "/files/shared/", b"", origin)
        require(listed.status == 200, f"a listing is answered with {listed.status}")
        require(listed.headers["access-control-allow-origin"] == origin["Origin"], "no page may see it")
        for entry in json.loads(listed.body)["entries"]:
            if entry["type"] != "file":
                continue
            part = agent.ask("GET", entry["url"], b"", {**origin, "Range": "bytes=1-9"})
            # Whole where a directory has come in its place.
            _answered(part.status, (200, 206, 404, 409, 416), f"a part of {entry['url']}")
            same = agent.ask("GET", entry["url"], b"", {**origin, "If-None-Match": entry["etag"]})
            _answered(same.status, (200, 304, 404), f"{entry['url']} if it is new")
        made += 1
        event = {
            "event_type": "file_created",
            "data": {"path": f"/{name}/{made % 40}.txt", "content": f"number {made} ü"},
        }
        kept = agent.ask(
            "POST", "/event/store", json.dumps(event).encode(), {**origin, "Content-Type": "application/json"}
        )
        _answered(kept.status, (200,), "an event of a file")
        yield


def _follow(all_: _Together, token: str) -> None:
    """Reads events as they come: every cursor is greater than the one before."""
    follower = Connection(all_.served.address, token)
    cursor = last = (0, 0)
    try:
        follower._connection.request(
            "GET", "/events/stream", headers={"Authorization": f"Bearer {token}"}
        )
        answer = follower._connection.getresponse()
        while not all_.over.is_set():
            line = answer.readline()
            if not line:
                return
            if line.startswith(b"id:"):
                number, _, part = line.removeprefix(b"id:").strip().partition(b".")
                cursor = (int(number), int(part or 0))
            # Without data it says no more than where the stream is.
            if line.startswith(b"data:"):
                if cursor <= last:
                    all_.failures.append(f"the event {cursor} came after {last}")
                last = cursor
    except OSError:
        # The server stopped.
        return


def _over_dav(all_: _Together, name: str, rng: random.Random) -> Iterator[None]:
    """A WebDAV client: PROPFIND, PUT, COPY, MOVE, DELETE, MKCOL, LOCK."""
    agent = all_.connection(name)
    agent.ask("MKCOL", f"/dav/{name}")
    base = f"http://{all_.served.address}"
    raced = (200, 201, 204, 207, 403, 404, 405, 409, 412, 423)
    while True:
        one, two = (f"/dav/{name}/{rng.randrange(20)}" for _ in range(2))
        content = _content(rng)
        _answered(agent.ask("PUT", one, content).status, (201, 204), f"PUT {one}")
        if one != two:
            method = rng.choice(("COPY", "MOVE"))
            sent = {"Destination": base + two, "Overwrite": "T"}
            _answered(agent.ask(method, one, b"", sent).status, (201, 204), f"{method} {one}")
            got = agent.ask("GET", two)
            require((got.status, got.body) == (200, content), f"{method} of {one} made other content")
        _answered(agent.ask("PROPFIND", f"/dav/{name}/", b"", {"Depth": "1"}).status, (207,), "PROPFIND")
        here, there = (f"/dav/shared/{url(rng.choice(NAMES))}" for _ in range(2))
        method = rng.choice(("PUT", "DELETE", "MKCOL", "MOVE", "COPY", "PROPFIND"))
        sent = {"Destination": base + there, "Overwrite": rng.choice("TF"), "Depth": "infinity"}
        body = content if method == "PUT" else b""
        _answered(agent.ask(method, here, body, sent).status, raced, f"{method} {here}")
        yield


def _over_rclone(all_: _Together, name: str, rng: random.Random) -> Iterator[None]:
    """rclone: a directory is kept equal to one of its own."""
    token = all_.served.session(name)
    here = all_.aside / name
    here.mkdir()
    remote = f":webdav:{name}"
    common = [
        "--webdav-url", f"http://{all_.served.address}/dav", "--webdav-bearer-token", token,
        "--config", "/dev/null", "--retries", "1", "--ignore-times",
    ]  # fmt: skip
    while True:
        for _ in range(4):
            path = here / f"d{rng.randrange(3)}" / str(rng.randrange(8))
            path.parent.mkdir(exist_ok=True)
            path.unlink() if path.exists() and rng.random() < 0.5 else path.write_bytes(_content(rng))
        run(["rclone", "sync", here, remote, *common], timeout=HUNG)
        run(["rclone", "check", here, remote, "--download", *common], timeout=HUNG)
        yield


def _over_cadaver(all_: _Together, name: str, rng: random.Random) -> Iterator[None]:
    """cadaver: which knows only names and passwords."""
    home = all_.aside / f"{name}.home"
    home.mkdir()
    host = all_.served.address.rpartition(":")[0]
    netrc = home / ".netrc"
    netrc.write_text(f"machine {host}\nlogin {name}\npassword {all_.served.session(name)}\n")
    netrc.chmod(0o600)
    body = all_.aside / f"{name}.body"
    made = 0
    while True:
        made += 1
        body.write_bytes(_content(rng))
        at = f"{name}{made % 10}"
        script = [
            f"mkcol {at}", f"cd {at}", f"put {body} one", "copy one two", "move two three",
            "ls", "delete one", "cd ..",
        ]  # fmt: skip
        if rng.random() < 0.5:
            script.append(f"rmcol {at}")
        done = run(
            ["cadaver", f"http://{all_.served.address}/dav/"],
            timeout=HUNG, env={"HOME": str(home)}, stdin="\n".join([*script, "quit", ""]),
        )  # fmt: skip
        # The directory may be there from an earlier turn; all else is its own.
        others = done.stdout.count("failed:") - done.stdout.count("405 Method Not Allowed")
        require(done.stdout.count("succeeded.") >= 5 and others == 0, f"cadaver: {done.stdout[-800:]}")
        yield


def _over_mount(all_: _Together, name: str, rng: random.Random) -> Iterator[None]:
    """A program in the mount."""
    current = all_.served.current
    own = current / name
    own.mkdir()
    while True:
        path = own / f"{rng.randrange(30)}"
        content = _content(rng)
        path.write_bytes(content)
        require(path.read_bytes() == content, f"{path} is not what was written")
        if rng.random() < 0.3:
            path.rename(own / f"{rng.randrange(30)}")
        here, there = (current / "shared" / rng.choice(NAMES) for _ in range(2))
        try:
            match rng.randrange(6):
                case 0:
                    here.write_bytes(content)
                case 1:
                    here.rename(there)
                case 2:
                    here.unlink()
                case 3:
                    here.mkdir()
                case 4:
                    here.rmdir()
                case _:
                    here.read_bytes()
        except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError):
            # Somebody else was there first.
            pass
        except OSError as err:
            # A directory that is not empty, or that would go into itself.
            if err.errno not in (22, 39):
                raise
        yield


def _over_shell(all_: _Together, name: str, rng: random.Random) -> Iterator[None]:
    """Tools in the mount."""
    own = all_.served.current / name
    own.mkdir()
    script = (
        "set -e; mkdir -p a b; echo $1 > a/f; cp a/f b/g; sed -i s/1/2/ b/g; mv b/g a/$2; ln -f a/f b/h; "
        "tar cf b/t a; tar tf b/t > /dev/null; rm -rf b; grep -r . a > /dev/null"
    )
    while True:
        run(["sh", "-c", script, "sh", str(rng.random()), str(rng.randrange(9))], timeout=HUNG, cwd=own)
        yield


def _seen_in_mount(root: Path) -> dict[str, bytes | None]:
    seen: dict[str, bytes | None] = {}
    for where, directories, files in os.walk(root):
        inside = Path(where).relative_to(root)
        seen.update({str(inside / name): None for name in directories})
        seen.update({str(inside / name): Path(where, name).read_bytes() for name in files})
    return seen


def _seen_over_files(agent: Connection, path: str = "") -> dict[str, bytes | None]:
    seen: dict[str, bytes | None] = {}
    after = ""
    while True:
        # Short pages, so that there are some.
        listed = agent.ask("GET", f"/files/{url(path)}?limit=5{after}")
        require(listed.status == 200, f"the listing of {path!r} is answered with {listed.status}")
        page = json.loads(listed.body)
        for entry in page["entries"]:
            inside = f"{path}{entry['name']}"
            if entry["type"] == "directory":
                seen[inside] = None
                seen.update(_seen_over_files(agent, f"{inside}/"))
            else:
                seen[inside] = agent.ask("GET", entry["url"]).body
        if page["next"] is None:
            return seen
        after = f"&after={page['next']}"


def _seen_over_dav(agent: Connection, path: str = "/dav/") -> dict[str, bytes | None]:
    seen: dict[str, bytes | None] = {}
    listed = agent.ask("PROPFIND", path, b"", {"Depth": "1"})
    require(listed.status == 207, f"PROPFIND {path} is answered with {listed.status}")
    for entry in ET.fromstring(listed.body).iter("{DAV:}response"):
        there = urlsplit(entry.findtext("{DAV:}href") or "").path
        if unquote(there).rstrip("/") == unquote(path).rstrip("/"):
            continue
        inside = unquote(there).removeprefix("/dav/").rstrip("/")
        if entry.find(".//{DAV:}collection") is not None:
            seen[inside] = None
            seen.update(_seen_over_dav(agent, there))
        else:
            seen[inside] = agent.ask("GET", there).body
    return seen


def _agree(wanted: dict[str, bytes | None], found: dict[str, bytes | None], where: str) -> None:
    missing, more = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    require(not missing and not more, f"{where}: {missing[:5]} are missing, {more[:5]} are too many")
    other = [path for path, content in wanted.items() if found[path] != content]
    require(not other, f"{where}: {other[:5]} have other content than in the mount")


@step("http-together", smoke=90, full=180, served=True, main=False, root=True)
def http_together(world: World) -> str:
    """HTTP, WebDAV, a page and programs in the mount change one tree at once: do they all see the same in the end?"""
    clients = {
        "files": _over_files,
        "page": _over_browser,
        "dav": _over_dav,
        "mount": _over_mount,
        "shell": _over_shell,
        "curl": _over_curl,
        "rclone": _over_rclone,
        "cadaver": _over_cadaver,
    }
    for tool in ("curl", "rclone", "cadaver"):
        if shutil.which(tool) is None:
            del clients[tool]
    with serve(world, "http-together", mount=True) as served:
        (served.current / "shared").mkdir()
        together = _Together(
            served, world.seed, world.pick(smoke=5.0, full=60.0), world.aside("http-together")
        )
        together.run(clients)
        agent = together.connection("judge")
        in_mount = _seen_in_mount(served.current)
        _agree(in_mount, _seen_over_files(agent), "/files/")
        _agree(in_mount, _seen_over_dav(agent), "/dav/")
        metrics = agent.ask("GET", "/metrics").body.decode()
        require("lighthouse_http_panics_total 0\n" in metrics, "a handler of HTTP panicked")
        panics = [line for line in metrics.splitlines() if "panics" in line and not line.endswith(" 0")]
        require(all(line.startswith("#") for line in panics), f"something panicked: {panics}")
        store = served.store
    run([world.binary, "verify", store], timeout=world.time_left())
    turns = ", ".join(f"{name} {count}" for name, count in together.turns.items())
    left_out = {"curl", "rclone", "cadaver"} - clients.keys()
    without = f"; without {', '.join(sorted(left_out))}, which are not installed" if left_out else ""
    return f"{len(in_mount)} names agree; turns: {turns}{without}"


STEPS = (http_schema, http_together)
