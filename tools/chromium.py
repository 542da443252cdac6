"""Chromium for the tests of the chat page: found, or installed where Debian's apt-get may.

The exit status is that of pytest. Without Chromium it is 1 where apt-get works, since it should
have installed it; elsewhere it is 0, and one line says what is missing.

python -m tools.chromium [ARGUMENT OF PYTEST ...]
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

__all__ = ["find_chromium", "main"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
UPDATE = ("update", "--quiet=2", "--option", "APT::Update::Error-Mode=any")
INSTALL = ("install", "--quiet=2", "--yes", "--no-install-recommends", "chromium")
MISSING = "The chat page was not tested: no Chromium ({}). Install it, or name it in CHROMIUM."


def main(arguments: Sequence[str]) -> int:
    """Test the chat page in Chromium, and return the exit status."""
    works = find_chromium() is None and install_chromium()
    if find_chromium() is None:
        reason = "apt-get did not install it" if works else "apt-get cannot be used"
        print(MISSING.format(reason), file=sys.stderr)
        return int(works)
    return run_tests(arguments)


def find_chromium() -> str | None:
    """Return the path of Chromium: of the variable CHROMIUM, or on the PATH; None without it."""
    names = filter(None, (os.environ.get("CHROMIUM"), *NAMES))
    return next(filter(None, map(shutil.which, names)), None)


def install_chromium() -> bool:
    """Let apt-get install Chromium; return whether apt-get works and may."""
    if os.geteuid() or shutil.which("apt-get") is None or apt_get(*UPDATE):
        return False
    apt_get(*INSTALL)
    return True


def run_tests(arguments: Sequence[str]) -> int:
    """Run pytest, and return its exit status."""
    command = [sys.executable, "-m", "pytest", "-m", "browser", "tests/browser", *arguments]
    return subprocess.run(command, check=False).returncode


def apt_get(*arguments: str) -> int:
    """Run apt-get, which asks nothing, and return its exit status."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(["apt-get", *arguments], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
