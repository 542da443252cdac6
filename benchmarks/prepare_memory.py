"""Measure the peak memory of prepare_weights.py, on random checkpoints at MiMo's widths.

Each checkpoint is written to a temporary folder, prepared in a process of its own, and deleted. The
exit status is 1 if a peak is over twice the largest tensor plus 300 MB.

python benchmarks/prepare_memory.py
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint.safetensors_file import DTYPES
from mimo_v2_flash.cli.console import amount, console, table
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.config_presets import HubLayout
from mimo_v2_flash.costs.meta import hub_tensors

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "prepare_memory.json"
SETTINGS = (("fp8", "cpu"), ("fp8", "trainium2"), ("bfloat16", "cpu"), ("float32", "cpu"))
ALLOWED = 300_000_000  # bytes in addition to twice the largest tensor
PORTION = 1 << 22  # random bytes, written again and again
FUSED = {  # entries of MiMo-V2.5's config.json
    "architectures": ["MiMoV2ForCausalLM"],
    "model_type": "mimo_v2",
    "attention_projection_layout": "fused_qkv",
}


class Tensor(NamedTuple):
    """A tensor of a checkpoint: its name, dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


def main() -> int:
    """Measure every layout and setting, print and save the results, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--experts",
        type=int,
        default=64,
        help="Number of experts in each of two layers (default: 64).",
    )
    parser.add_argument(
        "--folder", type=Path, help="Folder of the checkpoints, 20 GB (default: a temporary one)."
    )
    options = parser.parse_args()
    config = model_config(options.experts)
    runs = [run for fused in (False, True) for run in measure(config, fused, options.folder)]
    show(runs)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n")
    return int(any(run["peak_bytes"] > run["bound_bytes"] for run in runs))


def model_config(experts: int) -> MiMoConfig:
    """Return the config of MiMo-V2-Flash with three layers, fewer experts, a vocabulary of 8192.

    At the true vocabulary the embedding would be the largest tensor, 1.25 GB, and the bound loose.
    """
    return MiMoConfig(
        vocab_size=8192,
        num_hidden_layers=3,
        hybrid_layer_pattern=(0, 1, 0),
        moe_layer_freq=(0, 1, 1),
        n_routed_experts=experts,
    )


def measure(config: MiMoConfig, fused: bool, folder: Path | None) -> Iterator[dict[str, Any]]:
    """Yield the peak memory and seconds of preparing a checkpoint of `config`, for each setting."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        source = Path(temporary) / "checkpoint"
        tensors = list(checkpoint_tensors(config, fused=fused))
        write(source, config, tensors, fused=fused)
        largest = max(tensor.nbytes for tensor in tensors)
        for dtype, target in SETTINGS:
            with tempfile.TemporaryDirectory(dir=temporary) as output:
                seconds, peak = prepare(source, Path(output), dtype, target)
            yield {
                "layout": "fused" if fused else "split",
                "dtype": dtype,
                "target": target,
                "checkpoint_bytes": sum(tensor.nbytes for tensor in tensors),
                "largest_tensor_bytes": largest,
                "bound_bytes": 2 * largest + ALLOWED,
                "peak_bytes": peak,
                "seconds": round(seconds, 1),
            }


def checkpoint_tensors(config: MiMoConfig, *, fused: bool) -> Iterator[Tensor]:
    """Yield the tensors of a checkpoint in the hub's layout, those of a layer one after another."""
    for name, info in hub_tensors(config, HubLayout(fused)).items():
        yield Tensor(name, info.dtype, info.shape)


def write(folder: Path, config: MiMoConfig, tensors: list[Tensor], *, fused: bool) -> None:
    """Write a random checkpoint: a file for each layer, and one for the rest."""
    folder.mkdir()
    shards: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        first, second, layer, *_ = (*tensor.name.split("."), "")
        stem = layer if (first, second) == ("model", "layers") else "rest"
        shards.setdefault(f"model_{stem}.safetensors", []).append(tensor)
    for file, members in shards.items():
        write_shard(folder / file, members)
    weight_map = {tensor.name: file for file, members in shards.items() for tensor in members}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config.to_dict() | (FUSED if fused else {})))


def write_shard(path: Path, tensors: list[Tensor]) -> None:
    """Write a file of `tensors`, a portion at a time, so that memory does not grow with them."""
    random, header, end = np.random.default_rng(0), {}, 0
    for tensor in tensors:
        begin, end = end, end + tensor.nbytes
        entry = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (begin, end)}
        header[tensor.name] = entry
    text = json.dumps(header).encode()
    code = random.integers(0, 256, PORTION, np.uint8)
    portions = {"F8_E4M3": np.where(code & 0x7F == 0x7F, 0, code)}
    for dtype in ("F32", "BF16"):
        portions[dtype] = random.random(PORTION // 4, np.float32).astype(DTYPES[dtype]) + 1
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            portion = portions[tensor.dtype].tobytes()
            for start in range(0, tensor.nbytes, len(portion)):
                file.write(portion[: tensor.nbytes - start])


def prepare(source: Path, output: Path, dtype: str, target: str) -> tuple[float, int]:
    """Run prepare_weights.py and return its seconds and its peak resident memory, in bytes."""
    program = [sys.executable, str(ROOT / "prepare_weights.py")]
    arguments = ["--checkpoint", str(source), "--output", str(output / "prepared")]
    start = time.perf_counter()
    child = subprocess.Popen(
        [*program, *arguments, "--dtype", dtype, "--target", target], stdout=-3
    )
    # Linux counts a child's peak from that of its parent on; write_shard keeps the latter lower.
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, program)
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def show(runs: list[dict[str, Any]]) -> None:
    """Print a row for each run."""
    left, right = ("attention", "dtype", "target"), ("checkpoint", "peak", "allowed", "seconds")
    printed = table("Peak memory of prepare_weights.py", left, right)
    for run in runs:
        sizes = (run[f"{name}_bytes"] for name in ("checkpoint", "peak", "bound"))
        printed.add_row(
            run["layout"], run["dtype"], run["target"], *map(amount, sizes), str(run["seconds"])
        )
    console().print(printed)


def machine() -> dict[str, Any]:
    """Return the hardware and software that results depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
