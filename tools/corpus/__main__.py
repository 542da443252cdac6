"""Build the training text, and print what it holds.

python -m tools.corpus --text text --work work --conversations 80000
"""

import argparse
import json
from pathlib import Path

from .build import build


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True, help="Folder of *.rst.txt.")
    parser.add_argument("--work", type=Path, required=True, help="Folder to write to.")
    parser.add_argument("--conversations", type=int, default=80_000, help="Number (80000).")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print(json.dumps(build(options.text, options.work, options.conversations), indent=2))


if __name__ == "__main__":
    main()
