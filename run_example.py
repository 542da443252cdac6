"""Run MiMo-V2-Flash: check its kernels, let it write, try it with random or some real weights.

python run_example.py --mode test
python run_example.py --mode generate --prompt "A list is"
python run_example.py --mode evaluate --text FILE
python run_example.py --mode trace --prompt "A list is" --output trace.safetensors
python run_example.py --mode compare trace.safetensors another.safetensors
python run_example.py --mode plan --expert-parallel 32 --tensor-parallel 4
python run_example.py --mode random --num-experts 8
python run_example.py --mode download --expert-subset 0 1 2 3 4 5 6 7
"""

import argparse
import sys
from collections.abc import Sequence

from mimo_v2_flash.commands import (
    compare,
    download,
    evaluate,
    generate,
    plan,
    random_model,
    self_check,
    trace,
)

MODES = {
    "test": self_check,
    "random": random_model,
    "download": download,
    "generate": generate,
    "evaluate": evaluate,
    "trace": trace,
    "compare": compare,
    "plan": plan,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one mode and return its exit status."""
    chooser = argparse.ArgumentParser(add_help=False)
    chooser.add_argument("--mode", choices=MODES)
    mode = chooser.parse_known_args(arguments)[0].mode

    parser = argparse.ArgumentParser(
        description=MODES[mode].__doc__ if mode else __doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--mode", choices=MODES, required=True, help="what to run")
    if mode:
        MODES[mode].add_arguments(parser)
    options = vars(parser.parse_args(arguments))
    del options["mode"]
    try:
        return int(MODES[mode].run(**options))
    except (ImportError, OSError, ValueError) as error:
        print(f"run_example.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
