"""Say what every program of a deployment costs on Trainium2, without weights and without one.

The model is traced by nkipy, all its programs are counted: instructions, matmuls, bytes of memory
and of exchanges, each beside the least possible. Times are projected from published figures of the
hardware, never measured.
"""

import argparse
from pathlib import Path

import ml_dtypes
import numpy as np

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.weights.encoding import STORED

from .cost_report import report
from .deployment import Deployment
from .ledger import ledger
from .options import add_renamed_option
from .parallel_options import add_parallel_arguments, parse_parallel_config

__all__ = ["add_arguments", "add_deployment_arguments", "parse_deployment", "run"]

FLOATS = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
CHUNK = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this mode."""
    add_deployment_arguments(parser)
    parser.add_argument("--json", dest="file", type=Path, metavar="FILE", help="for all numbers")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="for a roofline: .png or .svg; needs matplotlib"
    )


def add_deployment_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what a model is compiled for."""
    parser.add_argument(
        "--model", type=Path, help="a config.json, or its folder (MiMo-V2-Flash itself)"
    )
    add_parallel_arguments(parser)
    parser.add_argument("--batch-size", type=int, help="sequences in all (one for each share)")
    parser.add_argument("--context", type=int, default=4096, help="tokens of a sequence (4096)")
    parser.add_argument(
        "--chunk", type=int, default=CHUNK, help=f"tokens of a prompt in a step ({CHUNK})"
    )
    parser.add_argument("--dtype", choices=STORED, default="fp8", help="of the weights (fp8)")
    parser.add_argument(
        "--cache-dtype", choices=FLOATS, default="bfloat16", help="of keys and values (bfloat16)"
    )
    add_renamed_option(
        parser,
        "--activation-dtype",
        "--stream-dtype",
        choices=FLOATS,
        default="bfloat16",
        help="between layers (bfloat16)",
    )


def parse_deployment(
    model: Path | None,
    expert_parallel: int | None,
    tensor_parallel: int,
    data_parallel: int | None,
    batch_size: int | None,
    context: int,
    chunk: int,
    dtype: str,
    cache_dtype: str,
    activation_dtype: str,
) -> Deployment:
    """Return the deployment that options ask for; ValueError names what is impossible."""
    config = MiMoConfig() if model is None else MiMoConfig.from_pretrained(model)
    plan = parse_parallel_config(expert_parallel, tensor_parallel, data_parallel)
    rows = plan.data_parallel_size if batch_size is None else batch_size
    floats = FLOATS[cache_dtype], FLOATS[activation_dtype]
    return Deployment(config, plan, rows, context, chunk, dtype, *floats)


def run(*, file: Path | None, plot: Path | None, **asked: object) -> int:
    """Trace, count, print the tables, write what is asked for, and return the exit status."""
    deployment = parse_deployment(**asked)  # type: ignore[arg-type]
    report(deployment, ledger(deployment), file=file, plot=plot)
    return 0
