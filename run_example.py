"""Run MiMo-V2-Flash: generate text, evaluate, check, trace, plan, estimate costs, and compile.

The same as the console script `mimo`: `run_example.py --mode MODE` is `mimo MODE`.
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
import sys
from collections.abc import Sequence

from mimo_v2_flash.cli.commands import COMMANDS
from mimo_v2_flash.cli.entry import Invocation, launch
from mimo_v2_flash.cli.parser import CommandParser, OneLineParser

PROG = "run_example.py"
MODES = {name: command for name, command in COMMANDS.items() if name != "prepare"}
RENAMED = {"programs": "cost"}
SHORT = {"plan": "--plan", "compile": "--compile-only"}
ALSO = {
    "plan": ("plan", "cost", "compile", "generate", "evaluate", "random"),
    "compile": ("compile",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one mode and return its exit status."""
    return launch(PROG, _parse, arguments)


def _parse(words: list[str]) -> Invocation:
    """Return the command that `--mode`, `--plan` or `--compile-only` names, with its options."""
    chooser = OneLineParser(prog=PROG, add_help=False)
    add_mode(chooser)
    choice = chooser.parse_known_args(words)[0]
    mode = choice.mode or choice.short
    if mode is None:
        parser = OneLineParser(prog=PROG, description=__doc__)
        add_mode(parser)
        parser.parse_known_args(words)  # --help
        parser.error(f"the following arguments are required: --mode, one of {', '.join(MODES)}")
    command = CommandParser(prog=PROG, command=MODES[mode])
    add_mode(command)
    options = vars(command.parse_args(words))
    if choice.short and mode not in ALSO[choice.short]:
        command.error(f"--mode {mode}: not allowed with {SHORT[choice.short]}")
    for name in ("mode", "short", "parser"):
        del options[name]
    return Invocation(command, options)


def add_mode(parser: argparse.ArgumentParser) -> None:
    """Declare the options that choose the mode."""
    parser.add_argument(
        "--mode",
        type=lambda name: RENAMED.get(name, name),
        choices=MODES,
        help="Mode to run (default: that of --plan or --compile-only; else it is required).",
    )
    for mode, option in SHORT.items():
        text = f"Short for --mode {mode}, if there is no --mode."
        parser.add_argument(option, dest="short", action="store_const", const=mode, help=text)


if __name__ == "__main__":
    sys.exit(main())
