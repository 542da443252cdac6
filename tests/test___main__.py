"""`python -m mimo_v2_flash` is `mimo`, and help needs no heavy library."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mimo_v2_flash.cli.commands import COMMANDS

ROOT = Path(__file__).parents[1]
HEAVY = {"numpy", "torch", "transformers", "numba", "huggingface_hub", "safetensors", "shtab"}


def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )


def test_help_lists_every_command_and_imports_nothing_heavy():
    done = ran("-X", "importtime", "-m", "mimo_v2_flash", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: mimo ")
    listed = re.findall(r"^    (\w+) ", done.stdout, re.MULTILINE)
    assert listed == list(COMMANDS)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mimo_v2_flash.cli.main" in imported
    assert HEAVY & imported == set()


@pytest.mark.parametrize("arguments", [(), ("generate",), ("generate", "--chunk", "0")])
def test_a_mistake_is_one_line_and_status_2(arguments):
    done = ran("-m", "mimo_v2_flash", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"mimo.*\n", done.stderr)


def test_the_console_script_is_this_program():
    scripts = re.search(r"\[project.scripts\]\n(.*)\n", (ROOT / "pyproject.toml").read_text())
    assert scripts[1] == 'mimo = "mimo_v2_flash.cli.main:main"'
