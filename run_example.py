"""Run MiMo-V2-Flash: generate text, evaluate, check, trace, plan, estimate costs, and compile.

--mode MODE --help shows the options of a mode.

python run_example.py --mode test
python run_example.py --mode generate --prompt "A list is"
python run_example.py --mode evaluate --text FILE
python run_example.py --mode trace --prompt "A list is" --output trace.safetensors
python run_example.py --mode compare trace.safetensors another.safetensors
python run_example.py --mode plan --expert-parallel 32 --tensor-parallel 4
python run_example.py --mode cost --expert-parallel 32 --tensor-parallel 4
python run_example.py --backend neuron --compile-only --expert-parallel 32 --tensor-parallel 32
python run_example.py --mode random --num-experts 8
python run_example.py --mode download --expert-subset 0 1 2 3 4 5 6 7

On several ranks: torchrun --nproc-per-node 8 run_example.py --mode generate --expert-parallel 8 ...
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from mimo_v2_flash.cli import (
    compare,
    compile_programs,
    cost,
    download,
    evaluate,
    generate,
    plan,
    random_model,
    self_check,
    trace,
)
from mimo_v2_flash.cli.parallel_options import only_rank_0_prints, rank_setup
from mimo_v2_flash.parallel import RankError, init_process_group

MODES = {
    "test": self_check,
    "random": random_model,
    "download": download,
    "generate": generate,
    "evaluate": evaluate,
    "trace": trace,
    "compare": compare,
    "plan": plan,
    "cost": cost,
    "compile": compile_programs,
}
RENAMED = {"programs": "cost"}
ON_RANKS = ("generate", "evaluate", "random")
SHORT = {"plan": "--plan", "compile": "--compile-only"}
ALSO = {"plan": ("plan", "cost", "compile", *ON_RANKS), "compile": ("compile",)}
PLAN = ("expert_parallel", "tensor_parallel", "data_parallel")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one mode and return its exit status."""
    chooser = argparse.ArgumentParser(add_help=False)
    _add_mode(chooser)
    choice = chooser.parse_known_args(arguments)[0]
    mode = choice.mode or choice.short

    parser = argparse.ArgumentParser(
        description=MODES[mode].__doc__ if mode else __doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_mode(parser)
    if mode:
        MODES[mode].add_arguments(parser)
    options = vars(parser.parse_args(arguments))
    if not mode:
        parser.error(f"the following arguments are required: --mode, one of {', '.join(MODES)}")
    if choice.short and mode not in ALSO[choice.short]:
        parser.error(f"--mode {mode}: not allowed with {SHORT[choice.short]}")
    del options["mode"], options["short"]
    try:
        return _run(mode, options)
    except (ImportError, OSError, RankError, ValueError) as error:
        rank = f"rank {os.environ['RANK']}: " if os.environ.get("WORLD_SIZE", "1") != "1" else ""
        print(f"run_example.py: {rank}{error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _mode(name: str) -> str:
    """Return the current name of a mode; old names are accepted."""
    return RENAMED.get(name, name)


def _add_mode(parser: argparse.ArgumentParser) -> None:
    """Declare the options that choose the mode."""
    parser.add_argument(
        "--mode",
        type=_mode,
        choices=MODES,
        help="Mode to run (default: that of --plan or --compile-only; else it is required).",
    )
    for mode, option in SHORT.items():
        text = f"Short for --mode {mode}, if there is no --mode."
        parser.add_argument(option, dest="short", action="store_const", const=mode, help=text)


def _run(mode: str, options: dict[str, Any]) -> int:
    """Run a mode on this rank, alone or under torchrun; only rank 0 prints."""
    with init_process_group(os.environ) as group:
        if mode in ON_RANKS:
            options["setup"] = rank_setup(group, *(options.pop(name) for name in PLAN))
        elif group.size > 1:
            raise ValueError(f"--mode {mode} runs on one rank, not on {group.size}")
        with only_rank_0_prints(group):
            return int(MODES[mode].run(**options))


if __name__ == "__main__":
    sys.exit(main())
