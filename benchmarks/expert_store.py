"""Compare decoding from an expert store with decoding from mapped files, larger than memory.

The model has MiMo-V2-Flash's true widths and six layers, five of them with all 256 experts in FP8:
32 GB of random bytes on disk. Its routing is synthetic, as `expert_store_worker` draws it. Each
run is a process of its own, after the files were dropped from the page cache; runs of all kinds
take turns. The exit status is 1 if outputs differ.

python -m benchmarks.expert_store --folder FOLDER
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from mimo_v2_flash.cli.console import amount, console, table
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.expert_store.eviction_policies import POLICIES

from .machine import describe_machine
from .made_weights import write_float8

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "expert_store.json"
MAPPED, LAYERS = "mapped", 6
WARM_UP = 0.25  # of a run's tokens: the store fills, and code is loaded


def main() -> int:
    """Measure, print and save; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="Folder of the checkpoint, kept if it exists.")
    parser.add_argument("--quick", action="store_true", help="A narrow model, and few tokens.")
    parser.add_argument("--budget", help="Of the store (default: 16GiB, quick 40MB).")
    parser.add_argument("--tokens", type=int, help="Of each run (default: 64, quick 16).")
    parser.add_argument("--rounds", type=int, default=3, help="Runs of each kind (default: 3).")
    parser.add_argument("--policies", nargs="+", default=["lfu"], choices=list(POLICIES))
    parser.add_argument("--output", type=Path, default=RESULT, help=f"(default: {RESULT})")
    options = parser.parse_args()
    budget = options.budget or ("40MB" if options.quick else "16GiB")
    tokens = options.tokens or (16 if options.quick else 64)
    with _checkpoint(options.folder, quick=options.quick) as folder:
        disk = _run(folder, "--disk", str(1 << (28 if options.quick else 34)))
        arguments = "--budget", budget, "--tokens", str(tokens)
        runs = [
            {"kind": kind}
            | _run(folder, *arguments, *(() if kind == MAPPED else ("--policy", kind)))
            for _ in range(options.rounds)
            for kind in (MAPPED, *options.policies)
        ]
    results = {"machine": describe_machine(), "quick": options.quick, "routing": "synthetic"}
    results |= {"budget": budget, "tokens": tokens, "disk": disk, "runs": runs}
    results["kinds"] = _summaries(runs, disk["bytes_per_second"])
    _show(results)
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    return int(len({run["logits_sum"] for run in runs}) > 1)


def model_config(*, quick: bool) -> MiMoConfig:
    """Return the config of MiMo-V2-Flash's first layers, with few tokens; narrow if `quick`."""
    config = replace(MiMoConfig().truncated(LAYERS), vocab_size=4096, eos_token_id=4095)
    narrow = {"hidden_size": 512, "intermediate_size": 512, "moe_intermediate_size": 256}
    narrow |= {"num_attention_heads": 8, "swa_num_attention_heads": 8}
    narrow |= {"n_routed_experts": 64}
    return replace(config, **narrow) if quick else config


@contextmanager
def _checkpoint(folder: Path | None, *, quick: bool) -> Iterator[Path]:
    """Write the checkpoint, unless the folder is there; a temporary one is deleted."""
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary) / "model"
        if not place.exists():
            write_float8(place, model_config(quick=quick))
        yield place


def _run(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run the worker on files that are not in the page cache."""
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, "-m", "benchmarks.expert_store_worker", "--folder", str(folder)]
    done = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, check=True, cwd=ROOT)
    numbers: dict[str, Any] = json.loads(done.stdout)
    return numbers


def _summaries(runs: list[dict[str, Any]], disk: float) -> dict[str, dict[str, Any]]:
    """Return the median seconds of a token after the warm-up, and what the store says, by kind."""
    kinds: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(run["kind"] for run in runs):
        same = [run for run in runs if run["kind"] == kind]
        kinds[kind] = {
            "token_seconds": [_mean_after_warm_up(run) for run in same],
            "disk_bytes": median(run["disk_bytes"] for run in same),
            "peak_bytes": max(run["peak_bytes"] for run in same),
            "anonymous_bytes": max(run["anonymous_bytes"] for run in same),
        }
        if stats := [run["stats"] for run in same if run["stats"]]:
            uses = median(s["hits"] / (s["hits"] + s["misses"]) for s in stats)
            rate = median(s["read_bytes"] / s["wait_seconds"] for s in stats)
            kinds[kind] |= {"hit_rate": uses, "read_rate": rate, "part_of_disk_rate": rate / disk}
    mapped = median(kinds[MAPPED]["token_seconds"])
    for numbers in kinds.values():
        numbers["times_as_fast"] = mapped / median(numbers["token_seconds"])
    return kinds


def _mean_after_warm_up(run: dict[str, Any]) -> float:
    seconds = run["token_seconds"]
    counted = seconds[int(WARM_UP * len(seconds)) :]
    return float(sum(counted) / len(counted))


def _show(results: dict[str, Any]) -> None:
    rows = [
        (
            kind,
            f"{median(numbers['token_seconds']):.3f}",
            f"{numbers['times_as_fast']:.2f}",
            f"{numbers['hit_rate']:.1%}" if "hit_rate" in numbers else "",
            f"{numbers['part_of_disk_rate']:.0%}" if "hit_rate" in numbers else "",
            amount(int(numbers["disk_bytes"])),
            amount(numbers["anonymous_bytes"]),
        )
        for kind, numbers in results["kinds"].items()
    ]
    title = f"synthetic routing, disk {amount(int(results['disk']['bytes_per_second']))}/s"
    columns = ("s per token", "times as fast", "held", "of the disk's rate", "read", "anonymous")
    console().print(table(title, ("experts",), columns, rows))


if __name__ == "__main__":
    sys.exit(main())
