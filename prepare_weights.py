"""Prepare the weights of MiMo-V2-Flash: select experts and layers, convert, and write shards.

The same as `mimo prepare`.

python prepare_weights.py --checkpoint FOLDER --output tmp_mimo_weights --expert-subset 0-7
python prepare_weights.py --model XiaomiMiMo/MiMo-V2-Flash --dry-run
"""

import sys
from collections.abc import Sequence

from mimo_v2_flash import load_weights
from mimo_v2_flash.cli.commands import COMMANDS
from mimo_v2_flash.cli.entry import Invocation, launch
from mimo_v2_flash.cli.parser import CommandParser

__all__ = ["load_weights", "main"]

PROG = "prepare_weights.py"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare weights as the command line asks, and return the exit status."""
    return launch(PROG, _parse, arguments)


def _parse(words: list[str]) -> Invocation:
    parser = CommandParser(prog=PROG, command=COMMANDS["prepare"])
    options = vars(parser.parse_args(words))
    return Invocation(options.pop("parser"), options)


if __name__ == "__main__":
    sys.exit(main())
