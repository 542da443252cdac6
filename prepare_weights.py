"""Prepare the weights of MiMo-V2-Flash: select experts and layers, convert, and write shards.

python prepare_weights.py --checkpoint FOLDER --output tmp_mimo_weights --expert-subset 0-7
python prepare_weights.py --model XiaomiMiMo/MiMo-V2-Flash --dry-run
"""

import argparse
import sys
from collections.abc import Sequence

from mimo_v2_flash.cli import prepare


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare weights as the command line asks, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=prepare.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    prepare.add_arguments(parser)
    try:
        return prepare.run(**vars(parser.parse_args(arguments)))
    except (OSError, ValueError) as error:
        print(f"prepare_weights.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
