"""What every step stands on: the runner, the mounts, commands with deadlines, and hashed listings."""
