"""SQLite with four writing processes, in both journal modes that matter.

Each writer counts its own rows from zero and notes a row outside the filesystem under test only after the
commit has returned. So what a writer noted must be in the database, whatever happened to the server.
"""

from __future__ import annotations

import os
import sqlite3
import traceback
from pathlib import Path

from harness.outcome import require
from harness.step import step
from harness.world import World

WRITERS = 4
MODES = ("DELETE", "WAL")
# Seconds a writer waits for the others.
BUSY_TIMEOUT = 60.0


def create(path: Path, mode: str) -> None:
    """Makes an empty database in the journal mode `mode`."""
    with sqlite3.connect(path) as database:
        given = database.execute(f"PRAGMA journal_mode={mode}").fetchone()[0]
        require(given.upper() == mode, f"asked for journal mode {mode}, got {given}")
        database.execute(
            "CREATE TABLE rows (writer INT, number INT, filler BLOB, PRIMARY KEY (writer, number))"
        )
    database.close()


def start_writers(path: Path, notes: Path, rows: int | None) -> list[int]:
    """Forks the writers, each for `rows` rows or, without a number, until something fails."""
    return [
        _fork_writer(path, notes / f"{path.stem}-{writer}", writer, rows)
        for writer in range(WRITERS)
    ]


def _fork_writer(path: Path, note: Path, writer: int, rows: int | None) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        _write(path, note, writer, rows)
    except (sqlite3.Error, OSError):
        # Expected when the server is killed; who joins the writers decides whether it was.
        traceback.print_exc()
        os._exit(1)
    except BaseException:
        traceback.print_exc()
        os._exit(2)
    os._exit(0)


def _write(path: Path, note: Path, writer: int, rows: int | None) -> None:
    noted = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
    database.execute("PRAGMA synchronous=FULL")
    number = 0
    while rows is None or number < rows:
        database.execute("BEGIN IMMEDIATE")
        database.execute(
            "INSERT INTO rows VALUES (?, ?, ?)", (writer, number, os.urandom(number % 3000))
        )
        database.execute("COMMIT")
        os.write(noted, f"{number}\n".encode())
        number += 1
    database.close()


def join(writers: list[int]) -> list[int]:
    """Waits for the writers and returns their exit codes."""
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in writers]


def check(path: Path, notes: Path) -> int:
    """Fails unless the database is whole and holds every noted row; returns how many were noted."""
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT)
    verdict = database.execute("PRAGMA integrity_check").fetchall()
    require(verdict == [("ok",)], f"{path.name}: integrity_check says {verdict[:3]}")
    total = 0
    for writer in range(WRITERS):
        note = notes / f"{path.stem}-{writer}"
        # The last line may be half written when the writer itself was stopped; it always ends in \n.
        noted = {int(line) for line in note.read_text().splitlines()} if note.exists() else set()
        query = "SELECT number FROM rows WHERE writer = ?"
        present = {number for (number,) in database.execute(query, (writer,))}
        missing = sorted(noted - present)
        require(
            not missing,
            f"{path.name}: writer {writer} committed rows that are missing: {missing[:5]}",
        )
        total += len(noted)
    database.close()
    return total


@step("sqlite", smoke=60, full=120)
def sqlite(world: World) -> str:
    """Do four writing processes keep an SQLite database whole, in DELETE and in WAL mode?"""
    place = world.work("sqlite")
    notes = world.aside("sqlite")
    rows = world.pick(smoke=50, full=500)
    for mode in MODES:
        path = place / f"{mode.lower()}.db"
        create(path, mode)
        codes = join(start_writers(path, notes, rows))
        require(codes == [0] * WRITERS, f"{mode}: the writers ended with {codes}")
        noted = check(path, notes)
        require(noted == rows * WRITERS, f"{mode}: {noted} of {rows * WRITERS} rows were committed")
    return f"{rows * WRITERS} rows in each mode, SQLite {sqlite3.sqlite_version}"


STEPS = (sqlite,)
