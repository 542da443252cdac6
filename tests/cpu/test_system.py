"""Systems that are refused: one sentence when the package is imported, one line of a command."""

import re
import subprocess
import sys

import pytest

from mimo_v2_flash.cpu.system import check_system

SENTENCE = (
    r"mimo_v2_flash runs on Linux and macOS, with a little-endian processor of 64 bits \(on "
    r"Windows in WSL\); this is \w+ on \w+"
)
WINDOWS = """
import os, sys
for name in ("fcntl", "resource", "pwd", "grp"):
    sys.modules[name] = None
for name in ("pwrite", "pread", "sysconf", "fork", "register_at_fork", "sched_getaffinity"):
    delattr(os, name)
"""
COMMAND = """
from mimo_v2_flash.cli.main import main
sys.exit(main({!r}))
"""
COMMANDS = [["test"], ["compare", "a", "b"], ["prepare", "--dry-run"], ["plan"], ["generate"]]


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )


def test_this_system_is_not_refused():
    check_system()


@pytest.mark.parametrize(
    "patch",
    [
        lambda patched: patched.setitem(sys.modules, "fcntl", None),
        lambda patched: patched.setitem(sys.modules, "resource", None),
        lambda patched: patched.setattr(sys, "byteorder", "big"),
        lambda patched: patched.setattr(sys, "maxsize", 2**31 - 1),
    ],
    ids=["no fcntl", "no resource", "big-endian", "32 bits"],
)
def test_another_is_refused(monkeypatch, patch):
    patch(monkeypatch)
    with pytest.raises(ImportError, match=f"^{SENTENCE}$"):
        check_system()


@pytest.mark.parametrize(
    "statement",
    [
        "from mimo_v2_flash import load_model",
        "from mimo_v2_flash import load_weights",
        "import mimo_v2_flash.convert.job",
        "import mimo_v2_flash.execution.compile_cache",
    ],
)
def test_on_windows_an_import_says_so(statement):
    process = run(f"{WINDOWS}\n{statement}")
    assert process.returncode == 1
    assert re.fullmatch(f"ImportError: {SENTENCE}", process.stderr.splitlines()[-1])


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_on_windows_a_command_says_so_in_a_line(arguments):
    process = run(WINDOWS + COMMAND.format(arguments))
    assert process.returncode == 2, process.stderr
    assert process.stdout == ""
    assert re.fullmatch(f"mimo.*: {SENTENCE}\n", process.stderr)
