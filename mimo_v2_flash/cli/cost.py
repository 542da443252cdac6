"""Estimate what every program of a deployment costs on Trainium2, without weights or a device.

nkipy traces the model; instructions, matmuls, bytes of memory and bytes of collectives are counted
for every program, beside a lower bound. Times are projected from published figures of the hardware,
never measured.
"""

import argparse
from pathlib import Path

from mimo_v2_flash.costs.deployment import Deployment
from mimo_v2_flash.costs.ledger import ledger
from mimo_v2_flash.costs.plan_comparison import compare_plans
from mimo_v2_flash.inputs import FLOATS
from mimo_v2_flash.kv_slots import MAX_DRAFT_TOKENS
from mimo_v2_flash.model_loader import DEFAULTS
from mimo_v2_flash.parallel_config import ParallelConfig

from .cost_report import report
from .figures_report import report_plans
from .option_types import natural, output_file, positive
from .options import CONTEXT, add_config_argument, default_context, read_model
from .parallel_options import add_parallel_arguments, parse_parallel_config
from .result import Result
from .runtime_options import add_dtype_arguments, add_layers_per_program

__all__ = ["add_arguments", "add_deployment_arguments", "parse_deployment", "run"]

CHUNK = DEFAULTS["neuron"].max_step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    add_deployment_arguments(parser)
    parser.add_argument(
        "--plot",
        type=_plot_file,
        metavar="FILE",
        help="Roofline plot to draw, .png or .svg; it needs matplotlib (default: none).",
    )
    parser.add_argument(
        "--best",
        action="store_true",
        help="Compare decode steps with the parallel sizes that suit a trn2.48xlarge, and name the "
        "best, instead of pricing one.",
    )


def add_deployment_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a deployment."""
    add_config_argument(parser)
    add_parallel_arguments(parser)
    parser.add_argument(
        "--batch-size",
        type=positive,
        help="Number of sequences on all ranks together (default: the data-parallel size).",
    )
    parser.add_argument(
        "--context",
        type=positive,
        help="Maximum sequence length that programs are compiled for, in tokens (default: "
        f"{CONTEXT}, or the model's maximum if that is less).",
    )
    parser.add_argument(
        "--chunk",
        type=positive,
        help=f"Number of prompt tokens per prefill step (default: {CHUNK}, or the context if that "
        "is less).",
    )
    parser.add_argument(
        "--draft-tokens",
        type=natural,
        default=0,
        metavar="N",
        help="Number of tokens that MTP heads draft for each step, at most "
        f"{MAX_DRAFT_TOKENS} (default: 0).",
    )
    add_layers_per_program(parser)
    add_dtype_arguments(parser, activation_dtype="bfloat16")


def parse_deployment(
    model: Path,
    expert_parallel: int | None,
    tensor_parallel: int,
    data_parallel: int | None,
    batch_size: int | None,
    context: int | None,
    chunk: int | None,
    draft_tokens: int,
    layers_per_program: int | None,
    dtype: str,
    cache_dtype: str,
    activation_dtype: str,
) -> Deployment:
    """Return the deployment that the options ask for; ValueError names an impossible size."""
    _, config, layout, _ = read_model(model)
    plan = parse_parallel_config(expert_parallel, tensor_parallel, data_parallel)
    rows = plan.data_parallel_size if batch_size is None else batch_size
    context = default_context(config) if context is None else context
    chunk = min(CHUNK, context) if chunk is None else chunk
    sizes, dtypes = (rows, context, chunk), (dtype, FLOATS[cache_dtype], FLOATS[activation_dtype])
    return Deployment(config, plan, *sizes, *dtypes, draft_tokens, layout, layers_per_program)


def _plot_file(text: str) -> Path:
    if not text.endswith((".png", ".svg")):
        raise argparse.ArgumentTypeError(f"{text}: allowed is a name that ends in .png or .svg")
    return output_file(text)


def run(*, plot: Path | None, best: bool, **options: object) -> Result:
    """Trace, count, print the tables, draw the plot, and return all numbers.

    Raises
    ------
    ValueError
        If a size is impossible, or an option has no meaning beside `best`.
    """
    deployment = parse_deployment(**options)  # type: ignore[arg-type]
    if not best:
        return report(deployment, ledger(deployment), plot=plot)
    if deployment.plan != ParallelConfig() or plot is not None:
        raise ValueError("--best is for plans of its own: leave out parallel sizes and --plot")
    return report_plans(compare_plans(deployment))
