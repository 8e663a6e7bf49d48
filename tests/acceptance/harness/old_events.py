"""Event logs as the Python bridge wrote them, made up from a seed, and what the project then was.

```text
 0        4                                   36                      36+len
 +--------+-----------------------------------+-----------------------+
 | len    | mac                               | payload               |
 | u32 BE | HMAC-SHA256 of the payload        | MessagePack map       |
 +--------+-----------------------------------+-----------------------+
```

Invariant: `Project` knows nothing of how a log is imported; it does what the bridge's documents say that an
event does, with dictionaries.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import random
import struct
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

SECRET = b"a secret of the acceptance"
EPOCH = datetime(2024, 1, 15, 10, tzinfo=timezone.utc)

# How many files and directories a made-up project has after a while.
FILES = 1500
DIRECTORIES = 150

WORDS = "def class return import lighthouse über naïve 日本 { } ( ) = # // \t \n".split(" ")


@dataclass
class Project:
    """Files by path, with their bytes, and directories; paths begin with `/`."""

    files: dict[str, bytes] = field(default_factory=dict)
    # Of each directory, how many entries it has.
    directories: dict[str, int] = field(default_factory=lambda: {"": 0})
    # Events that contradict the project and do nothing.
    contradictions: int = 0

    def apply(self, kind: str, data: dict[str, str]) -> None:
        """Does what an event says."""
        if not kind.startswith(("file_", "directory_")):
            return
        if not getattr(self, f"_{kind}")(data):
            self.contradictions += 1

    def _file_created(self, data: dict[str, str]) -> bool:
        return self._put(data["path"], data["content"].encode())

    _file_modified = _file_created

    def _file_deleted(self, data: dict[str, str]) -> bool:
        self._drop(data["path"])
        return True

    def _file_moved(self, data: dict[str, str]) -> bool:
        old, new = data["old_path"], data["new_path"]
        if not self._make(_parent(new)):
            return False
        if old in self.directories:
            return False
        if old not in self.files or old == new:
            return True
        if new in self.directories:
            return False
        content = self.files[old]
        self._drop(old)
        return self._put(new, content)

    def _file_copied(self, data: dict[str, str]) -> bool:
        source = data["source_path"]
        if source in self.directories:
            return False
        return source not in self.files or self._put(data["dest_path"], self.files[source])

    def _directory_created(self, data: dict[str, str]) -> bool:
        return self._make(data["path"])

    def _directory_deleted(self, data: dict[str, str]) -> bool:
        path = data["path"]
        if path and self.directories.get(path) == 0:
            del self.directories[path]
            self.directories[_parent(path)] -= 1
        return True

    def _directory_moved(self, data: dict[str, str]) -> bool:
        old, new = data["old_path"], data["new_path"]
        if old in self.files:
            return False
        if old not in self.directories:
            return True
        if not self._make(new):
            return False
        return old == new or self._directory_deleted({"path": old})

    def _make(self, path: str) -> bool:
        if path in self.directories:
            return True
        if path in self.files or not self._make(_parent(path)):
            return False
        self.directories[path] = 0
        self.directories[_parent(path)] += 1
        return True

    def _put(self, path: str, content: bytes) -> bool:
        if not self._make(_parent(path)) or path in self.directories:
            return False
        if path not in self.files:
            self.directories[_parent(path)] += 1
        self.files[path] = content
        return True

    def _drop(self, path: str) -> None:
        if self.files.pop(path, None) is not None:
            self.directories[_parent(path)] -= 1


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


@dataclass(frozen=True)
class Moment:
    """What the project was at a time: all of it, or of some paths what was there (`None`: nothing)."""

    name: str
    files: dict[str, bytes | None]
    # `None` where only some paths are known.
    directories: frozenset[str] | None


@dataclass(frozen=True)
class Written:
    """A log that was written, and what is known of the project it tells of."""

    files: list[Path]
    events: int
    contradictions: int
    moments: list[Moment]


def write(directory: Path, seed: int, events: int, *, whole: int, spots: int) -> Written:
    """Writes a log of `events` into `directory`: seven files, of which all but the last two are compressed.

    Keeps the whole project at `whole` moments and some of its paths at `spots` others; the last moment is the end.
    """
    directory.mkdir(parents=True)
    rng = random.Random(seed)
    project = Project()
    story = _Story(rng, project)
    of_all = set(rng.sample(range(events - 1), whole - 1)) | {events - 1}
    of_some = set(rng.sample(range(events), spots)) - of_all
    per_file = events // 7 + 1
    written = Written([], events, 0, [])
    pending: list[tuple[bool, timedelta]] = []
    now = timedelta()
    out = None
    seen: list[str] = []
    for number in range(events):
        if number % per_file == 0:
            if out is not None:
                out.close()
            index = number // per_file + 1
            path = directory / f"events_{index:06}.log{'.gz' if index <= 5 else ''}"
            written.files.append(path)
            out = gzip.open(path, "wb", compresslevel=1) if index <= 5 else path.open("wb")
        # Several events may have one time, and a moment has all of its time.
        step = timedelta(microseconds=0 if rng.random() < 0.2 else rng.randint(1, 40_000_000))
        if step:
            for all_of_it, after in pending:
                between = after + timedelta(microseconds=rng.randrange(step // timedelta(microseconds=1)))
                written.moments.append(_moment(rng, project, seen, all_of_it, between))
            pending.clear()
        now += step
        kind, data = story.next()
        project.apply(kind, data)
        if "path" in data and len(seen) < 50_000:
            seen.append(data["path"])
        if number in of_all or number in of_some:
            pending.append((number in of_all, now))
        payload = _payload(number, kind, data, now, rng)
        mac = hmac.digest(SECRET, payload, hashlib.sha256)
        out.write(struct.pack(">I", len(payload)) + mac + payload)
    out.close()
    for all_of_it, after in pending:
        written.moments.append(_moment(rng, project, seen, all_of_it, after))
    return Written(written.files, events, project.contradictions, written.moments)


def _moment(
    rng: random.Random, project: Project, seen: list[str], all_of_it: bool, after: timedelta
) -> Moment:
    name = (EPOCH + after).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if all_of_it:
        return Moment(name, dict(project.files), frozenset(project.directories) - {""})
    paths = [rng.choice(seen) for _ in range(2)]
    paths += [rng.choice(list(project.files))] if project.files else []
    return Moment(name, {path: project.files.get(path) for path in paths}, None)


class _Story:
    """What agents might have done: files come, change, move, are copied and go; other events in between."""

    def __init__(self, rng: random.Random, project: Project) -> None:
        self.rng = rng
        self.project = project
        # Paths that were files some time; most still are.
        self.paths: list[str] = []

    def next(self) -> tuple[str, dict[str, str]]:
        draw = self.rng.random()
        if draw < 0.12:
            return self.rng.choice(("agent_heartbeat", "command_executed")), {"note": self._text(40)}
        if draw < 0.17:
            return "directory_created", {"path": self._directory()}
        if draw < 0.19:
            return "directory_deleted", {"path": self._directory()}
        if draw < 0.20:
            return "directory_moved", {"old_path": self._directory(), "new_path": self._directory()}
        if draw < 0.26 and self.paths:
            return "file_moved", {"old_path": self._known(), "new_path": self._new()}
        if draw < 0.32 and self.paths:
            return "file_copied", {"source_path": self._known(), "dest_path": self._new()}
        crowded = len(self.project.files) > FILES
        if draw < (0.50 if crowded else 0.40) and self.paths:
            at = self.rng.randrange(len(self.paths))
            path = self.paths[at]
            # Some are deleted once more, or made again.
            if self.rng.random() < 0.9:
                self.paths[at] = self.paths[-1]
                self.paths.pop()
            return "file_deleted", {"path": path}
        if draw < (0.55 if crowded else 0.70) or not self.paths:
            # Now and then a file where a directory is: that contradicts the project.
            path = self._directory() if self.rng.random() < 0.002 else self._new()
            return "file_created", {"path": path, "content": self._content()}
        return "file_modified", {"path": self._known(), "content": self._content()}

    def _directory(self) -> str:
        number = self.rng.randrange(DIRECTORIES)
        # Some lie in others.
        return f"/src/d{number % 12}/e{number}" if number % 3 else f"/d{number}"

    def _new(self) -> str:
        path = f"{self._directory()}/f{self.rng.randrange(FILES // DIRECTORIES * 4)}.py"
        self.paths.append(path)
        if len(self.paths) > 2 * FILES:
            del self.paths[: FILES // 2]
        return path

    def _known(self) -> str:
        return self.rng.choice(self.paths)

    def _content(self) -> str:
        draw = self.rng.random()
        if draw < 0.03:
            return ""
        return self._text(self.rng.randint(4_000, 40_000) if draw < 0.04 else self.rng.randrange(500))

    def _text(self, length: int) -> str:
        unit = f"{self.rng.randrange(1 << 30):x} {self.rng.choice(WORDS)} "
        return (unit * (length // len(unit) + 1))[:length]


def _payload(number: int, kind: str, data: dict[str, str], at: timedelta, rng: random.Random) -> bytes:
    agent = f"agent-{rng.randrange(5)}"
    event = {
        "sequence": number + 1,
        "event_type": kind,
        "aggregate_id": "default",
        "aggregate_type": "project",
        "data": data,
        "metadata": {"session_id": f"session-{number // 1000}", "agent_id": agent},
        "source_agent": agent,
        "source_component": "bridge_aggregate",
        "timestamp": (EPOCH + at).isoformat(),
        "event_id": f"{10_000_000 + number * 1000}_0_lighthouse-01",
    }
    out = bytearray()
    _pack(event, out)
    return bytes(out)


def _pack(value: object, out: bytearray) -> None:
    """Appends a value as MessagePack, in the smallest form, as its library for Python writes it."""
    if isinstance(value, str):
        text = value.encode()
        length = len(text)
        if length < 32:
            out.append(0xA0 | length)
        elif length < 256:
            out += bytes((0xD9, length))
        elif length < 65536:
            out += struct.pack(">BH", 0xDA, length)
        else:
            out += struct.pack(">BI", 0xDB, length)
        out += text
    elif isinstance(value, int):
        if value < 128:
            out.append(value)
        elif value < 65536:
            out += struct.pack(">BH", 0xCD, value)
        else:
            out += struct.pack(">BI", 0xCE, value)
    elif isinstance(value, dict):
        assert len(value) < 16
        out.append(0x80 | len(value))
        for key, inner in value.items():
            _pack(key, out)
            _pack(inner, out)
    else:
        raise TypeError(f"{value!r} is in no event")
