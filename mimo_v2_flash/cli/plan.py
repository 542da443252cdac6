"""Say what a plan takes on every device, without running it, and whether it fits.

Any number of devices, any config: bytes of weights, cache and a step's buffers, and what ranks send
each other. The exit status is 1 if a device has too little memory.
"""

import argparse
import re
from pathlib import Path

import ml_dtypes
import numpy as np

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.costs import Workload
from mimo_v2_flash.weights.encoding import STORED

from .options import add_renamed_option
from .parallel_options import add_parallel_arguments, parse_parallel_config
from .plan_report import report

__all__ = ["add_arguments", "memory_size", "run"]

FLOATS = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
UNITS = {"": 1, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 1 << 20, "GiB": 1 << 30}
STEP = 512  # tokens of a row, as MiMoV2FlashModel takes them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this mode."""
    parser.add_argument(
        "--model", type=Path, help="a config.json, or its folder (MiMo-V2-Flash itself)"
    )
    add_parallel_arguments(parser)
    parser.add_argument("--batch-size", type=int, default=1, help="sequences in all (1)")
    parser.add_argument("--context", type=int, default=4096, help="tokens of a sequence (4096)")
    parser.add_argument("--step", type=int, help=f"tokens of a sequence in a step ({STEP})")
    parser.add_argument("--dtype", choices=STORED, default="fp8", help="of the weights (fp8)")
    parser.add_argument(
        "--cache-dtype", choices=FLOATS, default="bfloat16", help="of keys and values (bfloat16)"
    )
    add_renamed_option(
        parser,
        "--activation-dtype",
        "--stream-dtype",
        choices=FLOATS,
        default="float32",
        help="between layers (float32)",
    )
    parser.add_argument(
        "--memory", default="24GB", help="of a device, such as 96GB or 80GiB (24GB)"
    )
    parser.add_argument("--json", dest="file", type=Path, metavar="FILE", help="for all numbers")


def run(
    model: Path | None,
    expert_parallel: int | None,
    tensor_parallel: int,
    data_parallel: int | None,
    batch_size: int,
    context: int,
    step: int | None,
    dtype: str,
    cache_dtype: str,
    activation_dtype: str,
    memory: str,
    file: Path | None,
) -> int:
    """Count, print the tables and the verdict, and return the exit status."""
    config = MiMoConfig() if model is None else MiMoConfig.from_pretrained(model)
    plan = parse_parallel_config(expert_parallel, tensor_parallel, data_parallel)
    step = min(STEP, context) if step is None else step
    floats = FLOATS[cache_dtype], FLOATS[activation_dtype]
    workload = Workload(batch_size, context, step, dtype, *floats)
    return report(config, plan, workload, memory=memory_size(memory), file=file)


def memory_size(text: str) -> int:
    """Return the bytes that a text such as "24GB" or "80 GiB" says; ValueError if it says none."""
    found = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})", text)
    if not found:
        raise ValueError(f"--memory {text!r}: allowed is a size such as 24GB or 80GiB")
    return int(float(found[1]) * UNITS[found[2]])
