"""Session of a command on this rank: process group, standard streams, and JSON of the result."""

import sys
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from typing import Any

from mimo_v2_flash.parallel import RankError, init_process_group

from .entry import CommandError
from .example_model import resolve_gguf
from .option_types import STDOUT
from .parallel_options import only_rank_0_prints, rank_setup
from .parser import CommandParser
from .result import write_json

__all__ = ["run"]

PLAN = ("expert_parallel", "tensor_parallel", "data_parallel")


def run(parser: CommandParser, options: dict[str, Any], env: Mapping[str, str]) -> int:
    """Run a command, alone or, if it is one `on_ranks`, as a rank; return its exit status.

    Only rank 0 prints. With `--json` alone everything that a command prints goes to standard
    error, so that standard output has the object and nothing else.

    Parameters
    ----------
    parser
        The parser of the command.
    options
        The options that it read.
    env
        Environment variables, in which torchrun says which rank this is.

    Raises
    ------
    CommandError
        If another rank is lost.
    ValueError
        If the options ask for another number of ranks, or a launcher's variable is wrong.
    """
    options = dict(options)
    file, command = options.pop("json"), parser.command
    del options["debug"]
    resolve_gguf(options)
    try:
        # A command of one rank joins nothing: variables of a launcher are none of its concern.
        with init_process_group(env if command.on_ranks else {}) as group:
            if command.on_ranks:
                options["setup"] = rank_setup(group, *(options.pop(name) for name in PLAN))
            with only_rank_0_prints(group):
                with redirect_stdout(sys.stderr) if file == STDOUT else nullcontext():
                    result = command.load().run(**options)
                if file is not None and group.rank == 0:
                    write_json(result.numbers, None if file == STDOUT else file)
                return int(result.status)
    except RankError as error:
        raise CommandError(str(error)) from error
