"""What a mode of run_example.py says, and the amounts in its report."""

import re
from typing import Any

import run_example


def said_by(capsys: Any, mode: str, *arguments: object, status: int = 0) -> tuple[str, str]:
    """Return standard output and error of a mode, once its exit status is `status`."""
    assert run_example.main(["--mode", mode, *map(str, arguments)]) == status
    said = capsys.readouterr()
    return said.out, said.err


def amounts(report: str) -> dict[str, str]:
    """Return the report's rows: a name, two spaces or more, an amount."""
    rows = (re.split(r"\s{2,}", line.strip()) for line in report.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}
