"""Benchmark this project beside llama.cpp on a CPU: the same weights, in one run.

Layers 0, 1 and 5 of MiMo-V2-Flash at their true widths, 16 experts. Every contender has a process
of its own; they take turns, in another order each round. llama.cpp rounds activations: to 8 bits
beside Q8_0 and Q4_K, to bfloat16 beside bfloat16. Ours stay float32, unless a name says otherwise.

    python -m benchmarks.peers                      # 10 minutes; 5 GB of disk
    LLAMA_CPP_LIBRARY=libllama.so python -m benchmarks.peers    # beside a build for this machine
    python -m benchmarks.peers --quick              # narrow layers, one round, no results
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.cli.console import console, progress, table

from .clock import seconds
from .implementations import FLOAT8, Ours
from .machine import bytes_per_second, describe_machine
from .made_weights import model_config, write_float8

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "peers.json"
EXPERTS = 16
WARM, CONTEXT, ROWS, STEPS, PROMPT = 64, 256, 8, 40, 512  # tokens, rows, steps


class Contender(NamedTuple):
    """A side of the comparison: a library, a file of the weights, and a setting."""

    library: str  # "ours" or "llama.cpp"
    file: str
    compute: str = "float32"  # ours alone
    repack: bool = True  # llama.cpp alone


CONTENDERS = {
    "ours FP8": Contender("ours", FLOAT8),
    "ours FP8, bfloat16 compute": Contender("ours", FLOAT8, "bfloat16"),
    "ours Q8_0": Contender("ours", "q8_0.gguf"),
    "ours Q4_K": Contender("ours", "q4_k.gguf"),
    "ours Q4_K, bfloat16 compute": Contender("ours", "q4_k.gguf", "bfloat16"),
    "ours bfloat16": Contender("ours", "bfloat16.gguf"),
    "ours bfloat16, bfloat16 compute": Contender("ours", "bfloat16.gguf", "bfloat16"),
    "llama.cpp Q8_0": Contender("llama.cpp", "q8_0.gguf"),
    "llama.cpp Q4_K": Contender("llama.cpp", "q4_k.gguf"),
    "llama.cpp Q4_K, not repacked": Contender("llama.cpp", "q4_k.gguf", repack=False),
    "llama.cpp bfloat16": Contender("llama.cpp", "bfloat16.gguf"),
}


class Ratio(NamedTuple):
    """A comparison: the fastest of some of ours over the fastest of some of theirs, and a bar."""

    measure: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    bar: float


EIGHT, FOUR = (
    ("ours FP8", "ours FP8, bfloat16 compute", "ours Q8_0"),
    ("ours Q4_K", "ours Q4_K, bfloat16 compute"),
)
SIXTEEN = ("ours bfloat16", "ours bfloat16, bfloat16 compute")
Q4_K = ("llama.cpp Q4_K", "llama.cpp Q4_K, not repacked")
RATIOS = (
    Ratio("decode", ("ours FP8",), ("llama.cpp Q8_0",), 1.0),
    Ratio("decode", ("ours Q8_0",), ("llama.cpp Q8_0",), 0.9),
    Ratio("decode", ("ours bfloat16",), ("llama.cpp bfloat16",), 1.0),
    Ratio("decode", ("ours Q4_K",), Q4_K, 0.95),
    Ratio("batch of 8", ("ours FP8",), ("llama.cpp Q8_0",), 1.6),
    Ratio("batch of 8", ("ours Q4_K",), Q4_K, 1.2),
    Ratio("prompt of 512", EIGHT, ("llama.cpp Q8_0",), 2.2),
    Ratio("prompt of 512", SIXTEEN, ("llama.cpp bfloat16",), 1.4),
    Ratio("prompt of 512", FOUR, Q4_K, 1.0),
)


class Theirs:
    """llama.cpp, as `implementations.Implementation` has it."""

    def __init__(self, path: Path, *, repack: bool) -> None:
        from mimo_v2_flash.cpu.thread_count import thread_count  # noqa: PLC0415

        from .llama_cpp import LlamaCpp  # noqa: PLC0415

        self.llama = LlamaCpp(path, thread_count().number, repack=repack)

    def prefill(self, token_BT: np.ndarray, *, room: int = 0) -> np.ndarray:
        """Read prompts into a new cache, and return the logits of the last tokens."""
        B, T = token_BT.shape
        self.llama.start(B, T + room)
        return self.llama.step(token_BT, last_only=True)[:, 0]

    def fill(self, token_T: np.ndarray, *, rows: int, room: int) -> None:
        """Read the same prompt in every row."""
        self.prefill(np.tile(token_T, (rows, 1)), room=room)

    def decode(self, token_B: np.ndarray) -> np.ndarray:
        """Decode one token per row."""
        return self.llama.step(token_B[:, None], last_only=True)[:, 0]


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Return the tokens per second of a contender, and the instruction sets that llama.cpp uses."""
    contender = CONTENDERS[name]
    path = folder / contender.file
    is_ours = contender.library == "ours"
    model: Any = (
        Ours.at(path, contender.compute) if is_ours else Theirs(path, repack=contender.repack)
    )
    random = np.random.default_rng(0)
    prompt_T, new_NB = random.integers(0, 4000, PROMPT), random.integers(0, 4000, (STEPS, ROWS))
    model.prefill(prompt_T[None, :WARM])
    results: dict[str, Any] = {
        "prompt of 512": PROMPT / seconds(lambda: model.prefill(prompt_T[None]))
    }
    for key, rows in (("decode", 1), ("batch of 8", ROWS)):
        model.fill(prompt_T[:CONTEXT], rows=rows, room=STEPS)
        steps = [seconds(lambda row=row: model.decode(row)) for row in new_NB[:, :rows]]
        results[key] = rows / statistics.median(steps)
    return results if is_ours else results | {"units": model.llama.units}


def write_files(folder: Path, *, quick: bool) -> None:
    """Write the FP8 checkpoint, and GGUF files of the same weights."""
    from mimo_v2_flash import load_model  # noqa: PLC0415
    from mimo_v2_flash.convert.gguf_writer import plan_gguf  # noqa: PLC0415

    config = replace(model_config(quick=quick), n_routed_experts=EXPERTS)
    write_float8(folder / FLOAT8, config)
    for isq in (None, "q8_0", "q4_k"):
        model = load_model(folder / FLOAT8, isq=isq)
        path = folder / f"{isq or 'bfloat16'}.gguf"
        plan_gguf(path, model.config, model.weights, "bfloat16", folder).write(lambda _: None)


def run(rounds: int, *, quick: bool) -> list[dict[str, dict[str, Any]]]:
    """Return the results of each contender, round by round."""
    rounds_run = []
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), quick=quick)
        with progress("processes", total=rounds * len(CONTENDERS), unit="processes") as advance:
            for index in range(rounds):
                results = {}
                for name in list(CONTENDERS)[:: -1 if index % 2 else 1]:
                    results[name] = _run_process(name, Path(folder))
                    advance(1)
                rate = bytes_per_second([np.ones(1 << 27, np.int64)])
                rounds_run.append(results | {"machine": {"bytes_per_second": rate}})
    return rounds_run


def _run_process(name: str, folder: Path) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.peers",
        "--contender",
        name,
        "--folder",
        str(folder),
    ]
    completed = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ
    )
    if completed.returncode:
        raise RuntimeError(f"{name}: status {completed.returncode}\n{completed.stderr[-2000:]}")
    return json.loads(completed.stdout.splitlines()[-1])


def show(rounds: list[dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Print tokens per second and ratios; return the ratios."""
    measures = ("decode", "batch of 8", "prompt of 512")
    printed = table("Tokens per second, medians", ("contender",), measures)
    for name in CONTENDERS:
        each = (statistics.median(r[name][measure] for r in rounds) for measure in measures)
        printed.add_row(name, *(f"{value:.1f}" for value in each))
    console().print(printed)
    ratios = [_ratio(ratio, rounds) for ratio in RATIOS]
    printed = table("Ours over theirs", ("measure", "ours", "theirs"), ("median", "rounds", "bar"))
    for ratio in ratios:
        spread = f"{min(ratio['values']):.2f} to {max(ratio['values']):.2f}"
        numbers = (f"{ratio['median']:.2f}", spread, f"{ratio['bar']:.2f}")
        printed.add_row(ratio["measure"], ratio["ours"], ratio["theirs"], *numbers)
    console().print(printed)
    return ratios


def _ratio(ratio: Ratio, rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    def best(names: tuple[str, ...]) -> str:
        def speed(name: str) -> float:
            return statistics.median(r[name][ratio.measure] for r in rounds)

        return max(names, key=speed)

    ours, theirs = best(ratio.ours), best(ratio.theirs)
    values = [r[ours][ratio.measure] / r[theirs][ratio.measure] for r in rounds]
    median = statistics.median(values)
    return {
        "measure": ratio.measure,
        "ours": ours,
        "theirs": theirs,
        "median": median,
        "values": values,
        "bar": ratio.bar,
    }


def main() -> int:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="Number of rounds (default: 3).")
    parser.add_argument(
        "--quick", action="store_true", help="Narrow layers, one round, no results."
    )
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(measure(options.contender, options.folder)))
        return 0
    rounds = run(1 if options.quick else options.rounds, quick=options.quick)
    ratios = show(rounds)
    if not options.quick:
        content = {"machine": describe_machine(), "ratios": ratios, "rounds": rounds}
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
