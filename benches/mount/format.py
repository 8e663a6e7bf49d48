"""Formats every file below a directory as formatters do: looks for settings, reads, writes a new file, puts it in the old one's place."""

import os
import sys

MAY_BE_THERE = (".editorconfig", ".format.toml", "setup.cfg")

for directory, _, names in os.walk(sys.argv[1]):
    for name in names:
        path = os.path.join(directory, name)
        for setting in MAY_BE_THERE:
            if os.path.exists(os.path.join(directory, f"{name}{setting}")):
                sys.exit(f"nobody made {setting} for {path}")
        with open(path) as file:
            lines = file.read().splitlines()
        with open(f"{path}.new", "w") as file:
            file.write("\n".join(line.replace("line", "row").rstrip() for line in lines))
        os.replace(f"{path}.new", path)
