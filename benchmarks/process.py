"""One process of `benchmarks.cpu`: measures an implementation, the machine, or this project alone.

It imports only what its implementation does: the time from the start of the process counts.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from .measures import FULL, QUICK, measure

ALONE = {"machine": "machine.limits", "head": "alone.head", "sliding": "alone.sliding"}


def main() -> int:
    """Measure and print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--started", type=float, required=True)
    sys.stdout.write(json.dumps(run(parser.parse_args())) + "\n")
    return 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return the results of the measurement that `options` names."""
    if path := ALONE.get(options.name):
        module, _, name = path.partition(".")
        measurement = getattr(importlib.import_module(f".{module}", __package__), name)
        return measurement(quick=options.quick)
    workload = QUICK if options.quick else FULL
    return measure(options.name, options.folder, workload, options.started)


if __name__ == "__main__":
    sys.exit(main())
