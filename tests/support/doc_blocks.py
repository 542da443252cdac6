"""Code blocks of a Markdown page: which there are, and a run of all of them in one folder.

A page says in comments what is special:

<!-- not run: why -->                          right before a block that is not run
<!-- python blocks share one namespace -->     anywhere, if later blocks use names of earlier ones
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
CHECKOUT = (
    *("CONTRIBUTING.md", "LICENSE", "README.md", "pyproject.toml"),
    *("prepare_weights.py", "run_example.py", "benchmarks", "docs", "examples"),
)
LIMIT = 300  # seconds of one block, on a busy machine
SHARED = "<!-- python blocks share one namespace -->"
COMMENT = re.compile(r"<!-- not run: (.*) -->")
BLOCK = re.compile(r"^```([^\n`]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block of code on a page; `reason` is why it is not run, None if it is."""

    language: str
    source: str
    line: int
    reason: str | None


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of a page that have a language, in their order."""
    blocks = []
    for match in BLOCK.finditer(text):
        before = text[: match.start()].splitlines()
        comment = COMMENT.fullmatch(before[-1]) if before else None
        reason = comment and comment[1]
        blocks.append(Block(match[1], match[2], len(before) + 1, reason))
    return blocks


def make_checkout(folder: Path) -> dict[str, str]:
    """Make `folder` look like a checkout, with `mimo` and `python` of this one; return variables.

    Nothing is downloaded: the hub is not asked. The package has this one's path: numba would
    compile it anew under another.
    """
    for name in CHECKOUT:
        (folder / name).symlink_to(ROOT / name)
    programs = folder / ".bin"
    programs.mkdir()
    for name, arguments in (("mimo", "-m mimo_v2_flash "), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        program.chmod(0o755)
    paths = programs, Path(sys.executable).parent, os.environ["PATH"]
    variables = {"PATH": ":".join(map(str, paths)), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return os.environ | variables


def run_blocks(text: str, folder: Path, env: dict[str, str], monkeypatch: Any) -> int:
    """Run the blocks of a page in `folder`, one after the other, and return how many there were.

    The test fails at the first block that fails, whose line of the page is named.
    """
    monkeypatch.chdir(folder)
    namespace: dict[str, Any] = {}
    run = [block for block in blocks_of(text) if block.reason is None]
    for block in run:
        if block.language == "bash":
            _run_bash(block, folder, env)
        else:
            _run_python(block, namespace if SHARED in text else {})
    return len(run)


def _run_bash(block: Block, folder: Path, env: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.source],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=folder, env=env,
        timeout=LIMIT,
    )  # fmt: skip
    if done.returncode:
        pytest.fail(f"line {block.line}: exit status {done.returncode}\n{done.stderr}")


def _run_python(block: Block, namespace: dict[str, Any]) -> None:
    lines = "\n" * block.line + block.source  # so that a traceback has the page's lines
    try:
        exec(compile(lines, "page", "exec"), namespace)
    except Exception as error:  # whatever a reader would see
        pytest.fail(f"line {block.line}: {type(error).__name__}: {error}")
