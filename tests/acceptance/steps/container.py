"""The image, by the script that users run too."""

from __future__ import annotations

import shutil

from harness.command import run
from harness.outcome import Skipped
from harness.step import step
from harness.world import REPOSITORY, World

# The exit code with which the script says that no engine works here.
NO_ENGINE = 77


@step("container", smoke=None, full=420, served=True, main=False, root=True)
def container(world: World) -> str:
    """Does the image build, serve, stop with SIGTERM, and serve the same tree again?"""
    if not any(shutil.which(engine) for engine in ("docker", "podman")):
        raise Skipped("neither docker nor podman is installed")
    done = run([REPOSITORY / "docker" / "test"], timeout=world.time_left(), codes=(0, NO_ENGINE))
    if done.code == NO_ENGINE:
        raise Skipped(done.output.strip().splitlines()[-1])
    return done.stdout.strip().splitlines()[-1]


STEPS = (container,)
