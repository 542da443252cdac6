"""The output of a mode of run_example.py, and the amounts in its report."""

import re
from typing import Any

import run_example


def run_mode(capsys: Any, mode: str, *arguments: object, status: int = 0) -> tuple[str, str]:
    """Run a mode, assert that its exit status is `status`, and return (stdout, stderr)."""
    assert run_example.main(["--mode", mode, *map(str, arguments)]) == status
    captured = capsys.readouterr()
    return captured.out, captured.err


def amounts(report: str) -> dict[str, str]:
    """Return the rows of a report by name; two spaces or more separate a name and its amount."""
    rows = (re.split(r"\s{2,}", line.strip()) for line in report.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}
