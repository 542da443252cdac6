"""Measure the memory that preparing takes, on made-up checkpoints at MiMo's widths.

Each is written to a temporary folder, prepared by prepare_weights.py in a process of its own, and
deleted. The exit status is 1 if a peak is over twice the largest tensor plus 300 MB.

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

from mimo_v2_flash.cli.console import amount, console, table
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.weights.hub_tensors import hub_tensors
from mimo_v2_flash.weights.safetensors_file import DTYPES

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "prepare_memory.json"
SETTINGS = (("fp8", "cpu"), ("fp8", "trainium2"), ("bfloat16", "cpu"), ("float32", "cpu"))
ALLOWED = 300_000_000  # bytes beside twice the largest tensor
PORTION = 1 << 22  # random bytes, written again and again
FUSED = {  # of MiMo-V2.5's config.json
    "architectures": ["MiMoV2ForCausalLM"],
    "model_type": "mimo_v2",
    "attention_projection_layout": "fused_qkv",
}


class Tensor(NamedTuple):
    """What a checkpoint holds under a name."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


def main() -> int:
    """Measure every layout and setting, print and save what was found, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, default=64, help="of each of two layers (64)")
    parser.add_argument("--folder", type=Path, help="where there is room for 20 GB")
    options = parser.parse_args()
    config = made_up(options.experts)
    runs = [run for fused in (False, True) for run in measured(config, fused, options.folder)]
    show(runs)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n")
    return int(any(run["peak_bytes"] > run["bound_bytes"] for run in runs))


def made_up(experts: int) -> MiMoConfig:
    """Return MiMo-V2-Flash with three layers, fewer experts, and a vocabulary of 8192.

    At the true vocabulary the embedding, 1.25 GB, would be the largest tensor, and the bound loose.
    """
    return MiMoConfig(
        vocab_size=8192,
        num_hidden_layers=3,
        hybrid_layer_pattern=(0, 1, 0),
        moe_layer_freq=(0, 1, 1),
        n_routed_experts=experts,
    )


def measured(config: MiMoConfig, fused: bool, folder: Path | None) -> Iterator[dict[str, Any]]:
    """Yield what preparing a checkpoint of `config` takes under each setting."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        source = Path(made) / "checkpoint"
        tensors = list(stored(config, fused=fused))
        write(source, config, tensors, fused=fused)
        largest = max(tensor.nbytes for tensor in tensors)
        for dtype, target in SETTINGS:
            with tempfile.TemporaryDirectory(dir=made) as output:
                seconds, peak = prepared(source, Path(output), dtype, target)
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


def stored(config: MiMoConfig, *, fused: bool) -> Iterator[Tensor]:
    """Yield what the hub's checkpoint would hold, with a shard's tensors one after another."""
    for name, place in hub_tensors(config, fused=fused).items():
        yield Tensor(name, place.dtype, place.shape)


def write(folder: Path, config: MiMoConfig, tensors: list[Tensor], *, fused: bool) -> None:
    """Write a checkpoint of random numbers: a file for each layer, and one for the rest."""
    folder.mkdir()
    shards: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        first, second, layer, *_ = (*tensor.name.split("."), "")
        stem = layer if (first, second) == ("model", "layers") else "rest"
        shards.setdefault(f"model_{stem}.safetensors", []).append(tensor)
    for file, held in shards.items():
        write_shard(folder / file, held)
    weight_map = {tensor.name: file for file, held in shards.items() for tensor in held}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config.to_dict() | (FUSED if fused else {})))


def write_shard(path: Path, tensors: list[Tensor]) -> None:
    """Write a file of `tensors`, a portion at a time: their size is never held."""
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


def prepared(source: Path, output: Path, dtype: str, target: str) -> tuple[float, int]:
    """Run prepare_weights.py and return its seconds and its peak of resident memory, in bytes."""
    program = [sys.executable, str(ROOT / "prepare_weights.py")]
    what = ["--checkpoint", str(source), "--output", str(output / "prepared")]
    start = time.perf_counter()
    child = subprocess.Popen([*program, *what, "--dtype", dtype, "--target", target], stdout=-3)
    # What Linux says of a child begins at its parent's own peak; write_shard keeps that lower.
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, program)
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def show(runs: list[dict[str, Any]]) -> None:
    """Print a row for each run."""
    words, numbers = ("attention", "dtype", "target"), ("checkpoint", "peak", "allowed", "seconds")
    made = table("Peak memory of prepare_weights.py", words, numbers)
    for run in runs:
        sizes = (run[f"{what}_bytes"] for what in ("checkpoint", "peak", "bound"))
        made.add_row(
            run["layout"], run["dtype"], run["target"], *map(amount, sizes), str(run["seconds"])
        )
    console().print(made)


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    said = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in said if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
