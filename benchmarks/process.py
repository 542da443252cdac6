"""One process of the benchmark: a contender, or a measurement of its own.

It loads nothing that its contender does not: the time from its start counts.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from .measures import QUICK, UNSHARDED, measured

ALONE = {"machine": "machine.limits", "head": "alone.head", "sliding": "alone.sliding"}


def main() -> int:
    """Measure and print what was found, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--contender", required=True)
    parser.add_argument("--started", type=float, required=True)
    sys.stdout.write(json.dumps(found(parser.parse_args())) + "\n")
    return 0


def found(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the process finds."""
    if place := ALONE.get(options.contender):
        module, _, name = place.partition(".")
        work = getattr(importlib.import_module(f".{module}", __package__), name)
        return work(quick=options.quick)
    plan = QUICK if options.quick else UNSHARDED
    return measured(options.contender, options.folder, plan, options.started)


if __name__ == "__main__":
    sys.exit(main())
