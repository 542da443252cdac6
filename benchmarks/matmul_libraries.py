"""Benchmark matmuls with a stored weight: this project, NumPy, PyTorch, ONNX Runtime.

Every implementation has a process of its own, since thread pools that share a process wait for each
other. The processes take turns, and the results are medians over rounds. Weights are 4096 x 4096
and read from memory, not from a cache: 160 MB of them are used in turn. The error is relative to
float64 with the exact weights.

python -m benchmarks.matmul_libraries
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mimo_v2_flash.kernels import ops
from mimo_v2_flash.quantization.fp8 import BlockScaled, quantize
from mimo_v2_flash.quantization.matmul import plain_matmul

WIDTH, ROUNDS, BYTES = 4096, 3, 160_000_000
ROWS = (1, 8, 512)
RESULT = Path(__file__).parent / "results" / "matmul_libraries.json"
Product = Callable[[np.ndarray], np.ndarray]


def project(weights: list[BlockScaled]) -> list[Product]:
    """Multiply by FP8 as stored, with `ops.matmul`."""
    return [lambda x, w=w: ops.matmul(x, w) for w in weights]


def numpy_fp8(weights: list[BlockScaled]) -> list[Product]:
    """Multiply by FP8 as stored, with NumPy alone."""
    return [lambda x, w=w: plain_matmul(x, w) for w in weights]


def numpy_float32(weights: list[BlockScaled]) -> list[Product]:
    """Multiply by float32, dequantised beforehand, with NumPy."""
    dense = [w.dequantize() for w in weights]
    return [lambda x, w=w: x @ w.T for w in dense]


def torch_float32(weights: list[BlockScaled]) -> list[Product]:
    """Multiply by float32, dequantised beforehand, with PyTorch."""
    return _torch(weights, "float32")


def torch_bfloat16(weights: list[BlockScaled]) -> list[Product]:
    """Multiply with weights and activations rounded to bfloat16."""
    return _torch(weights, "bfloat16")


def _torch(weights: list[BlockScaled], dtype: str) -> list[Product]:
    import torch  # noqa: PLC0415

    torch_dtype = getattr(torch, dtype)
    dense = [torch.tensor(w.dequantize()).to(torch_dtype) for w in weights]

    def product(x: np.ndarray, w: Any) -> np.ndarray:
        with torch.inference_mode():
            return (
                torch.nn.functional.linear(torch.from_numpy(x).to(torch_dtype), w).float().numpy()
            )

    return [lambda x, w=w: product(x, w) for w in dense]


def onnxruntime_int8(weights: list[BlockScaled]) -> list[Product]:
    """Multiply with weights requantised to int8 in groups of 128, activations as well."""
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    sessions = [onnxruntime.InferenceSession(_onnx_model(w.dequantize()), options) for w in weights]
    return [lambda x, s=s: s.run(None, {"x": x})[0] for s in sessions]


def _onnx_model(w_OI: np.ndarray) -> bytes:
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    outputs, inputs = w_OI.shape
    groups = w_OI.reshape(outputs, inputs // 128, 128)
    scale = np.abs(groups).max(axis=2, keepdims=True) / 127
    code = np.clip(np.rint(groups / scale) + 128, 0, 255).astype(np.uint8)
    node = helper.make_node(
        "MatMulNBits", ["x", "code", "scale"], ["y"], domain="com.microsoft",
        K=inputs, N=outputs, bits=8, block_size=128, accuracy_level=4,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "matmul",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, outputs])],
        [numpy_helper.from_array(code, "code"), numpy_helper.from_array(scale.ravel(), "scale")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


IMPLEMENTATIONS: dict[str, tuple[Callable[[list[BlockScaled]], list[Product]], int]] = {
    "this project, FP8": (project, 1),
    "NumPy, FP8 by tiles": (numpy_fp8, 1),
    "NumPy, float32": (numpy_float32, 4),
    "PyTorch, float32": (torch_float32, 4),
    "PyTorch, bfloat16": (torch_bfloat16, 2),
    "ONNX Runtime MatMulNBits, int8": (onnxruntime_int8, 1),
}


def measure(name: str) -> dict[str, float]:
    """Return milliseconds per product for each number of rows, and the relative error."""
    make, weight_bytes = IMPLEMENTATIONS[name]
    random = np.random.default_rng(0)
    count = max(2, BYTES // (weight_bytes * WIDTH * WIDTH))
    weights = [quantize(random.standard_normal((WIDTH, WIDTH), np.float32)) for _ in range(count)]
    products = make(weights)
    results: dict[str, float] = {}
    for rows in ROWS:
        x_NI = random.standard_normal((rows, WIDTH), np.float32)
        y_NO = products[0](x_NI)
        times = []
        for product in products * (3 if rows < 512 else 1):
            start = time.perf_counter()
            product(x_NI)
            times.append(time.perf_counter() - start)
        results[str(rows)] = statistics.median(times) * 1e3
    exact_NO = x_NI.astype(np.float64) @ weights[0].dequantize().astype(np.float64).T
    results["error"] = float(np.sqrt(np.mean((y_NO - exact_NO) ** 2) / np.mean(exact_NO**2)))
    return results


def main() -> None:
    """Run every implementation `ROUNDS` times, in turn; print and save the medians."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in IMPLEMENTATIONS}
    for _ in range(ROUNDS):
        for name, rounds in runs.items():
            command = [sys.executable, "-m", "benchmarks.matmul_libraries", name]
            completed = subprocess.run(command, capture_output=True, text=True, check=True)
            rounds.append(json.loads(completed.stdout))
    medians = {
        name: {key: statistics.median(run[key] for run in rounds) for key in rounds[0]}
        for name, rounds in runs.items()
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(medians, indent=1) + "\n")
    print(f"{'ms per product':32}" + "".join(f"{rows:>5} rows" for rows in ROWS) + "     error")
    for name, results in medians.items():
        times = "".join(f"{results[str(rows)]:10.2f}" for rows in ROWS)
        print(f"{name:32}{times}   {results['error']:.1e}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
