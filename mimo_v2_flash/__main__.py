"""The console script `mimo` as `python -m mimo_v2_flash`."""

import sys

from .cli.main import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
