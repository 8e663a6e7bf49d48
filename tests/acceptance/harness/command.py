"""Running other programs: always with a deadline, always in a process group of their own.

Invariants: no command outlives its timeout; whatever it started in its group is killed with it; its
command line, output and time are in the step's log, which is this process's standard output.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.outcome import Failed

# Bytes of a command's output that are copied to the step's log.
LOGGED_MAX = 20_000

Argument = str | bytes | Path


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code (negative: the signal), and what it wrote."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def output(self) -> str:
        """Standard output followed by standard error."""
        return self.stdout + self.stderr


def shown(argv: Sequence[Argument]) -> str:
    """The command as one would type it."""
    return shlex.join(os.fsdecode(part) for part in argv)


def run(
    argv: Sequence[Argument],
    *,
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    codes: Sequence[int] | None = (0,),
) -> Finished:
    """Runs `argv` and returns what it did.

    `env` is added to the environment. `codes` are the exit codes that are right; `None` takes any.
    Fails the step when the command is missing, ends with another code, or is not done after
    `timeout` seconds.
    """
    words = tuple(os.fsdecode(part) for part in argv)
    print(f"$ {shown(words)}", flush=True)
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
            text=True,
            errors="surrogateescape",
        )
    except OSError as err:
        raise Failed(f"`{words[0]}` does not start: {err}") from err
    try:
        stdout, stderr = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired as err:
        kill_group(process.pid)
        raise Failed(f"`{shown(words)[:200]}` was not done after {timeout:.0f} s") from err
    finished = Finished(words, process.returncode, stdout, stderr, time.monotonic() - started)
    log(finished)
    if codes is not None and finished.code not in codes:
        raise Failed(
            f"`{shown(words)[:200]}` ended with {finished.code}: {last_lines(finished.output)}"
        )
    return finished


def log(finished: Finished) -> None:
    """Writes output, code and time to the step's log, the middle of long output left out."""
    text = finished.output
    if len(text) > LOGGED_MAX:
        half = LOGGED_MAX // 2
        text = f"{text[:half]}\n[... {len(text) - LOGGED_MAX} characters ...]\n{text[-half:]}"
    printable = text.encode("utf-8", "replace").decode("utf-8")
    print(f"{printable.rstrip()}\n= {finished.code} after {finished.seconds:.1f} s", flush=True)


def last_lines(text: str, count: int = 3) -> str:
    """The last lines that are not empty, on one line: what a reason has room for."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-count:])[:500] or "no output"


def kill_group(pid: int) -> None:
    """Kills the process group `pid` leads, if it is still there."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def free_run(
    argv: Sequence[Argument], *, cwd: Path | None = None, output: IO[str] | None = None
) -> subprocess.Popen[str]:
    """Starts a command that the step waits for itself; the step's end kills it in any case.

    What it prints goes to `output`, else to the step's log.
    """
    words = [os.fsdecode(part) for part in argv]
    print(f"$ {shown(words)} &", flush=True)
    return subprocess.Popen(
        words,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        process_group=0,
        text=True,
    )
