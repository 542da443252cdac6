"""Idioms, one per line of two files: those that strict arrays refuse, and those that they compute.

    kernel = FORBIDDEN["x @ y.T"];  kernel(**inputs_of(kernel))

An idiom is the body of a kernel. Its parameters are the names of `INPUTS` that it uses.

Source: each was traced by nkipy 0.1 and its HLO run on XLA. Allowed ones gave NumPy's numbers.
Forbidden ones do not trace, give HLO that XLA rejects, or give other numbers; some fail only for
other values or lengths, or differ from NumPy in dtype; a few break a rule of this project.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mimo_v2_flash.kernels import ops

_DRAW = np.random.default_rng(0)
_COUNT = _DRAW.integers(0, 9, (4, 6))
INPUTS = {
    "x": _DRAW.standard_normal((4, 6)).astype(np.float32),
    "y": _DRAW.standard_normal((4, 6)).astype(np.float32),
    "h": _DRAW.standard_normal((4, 6)).astype(ml_dtypes.bfloat16),
    "f": _DRAW.standard_normal((4, 6)).astype(ml_dtypes.float8_e4m3),
    "n": _COUNT.astype(np.int32),
    "u": _COUNT.astype(np.uint32),
    "b": _COUNT.astype(np.uint8),
    "m": _COUNT > 4,
    "p": np.array([2, 0], np.int32),  # rows
    "q": np.array([3, 1], np.uint32),
    "s": np.array([1], np.int32),
    "v": _DRAW.standard_normal((2, 6)).astype(np.float32),  # values of two rows
    "w": _DRAW.standard_normal((4, 2)).astype(np.float32),  # values of two columns
    "k": np.array([[1, 0], [5, 2], [3, 4], [0, 5]], np.int32),  # two columns of each row
    "z": np.array([[np.nan, np.inf], [1, -np.inf]], np.float32),
    "a": _DRAW.standard_normal((1200,)).astype(np.float32),
}


def inputs_of(kernel: Callable[..., Any]) -> dict[str, np.ndarray]:
    """Return fresh copies of the inputs that are parameters of `kernel`."""
    return {name: INPUTS[name].copy() for name in inspect.signature(kernel).parameters}


def _kernels(file: str) -> dict[str, Callable[..., Any]]:
    lines = (Path(__file__).parent / file).read_text().splitlines()
    return {line: _kernel(line) for line in lines if line and not line.startswith("# ")}


def _kernel(line: str) -> Callable[..., Any]:
    """Return a function with the body `line`, whose parameters are the inputs that it uses."""
    try:
        compile(line, line, "eval")
        line = f"return {line}"
    except SyntaxError:  # statements
        pass
    code = _define(line, ()).__code__
    return _define(line, sorted(INPUTS.keys() & {*code.co_names, *code.co_varnames}))


def _define(line: str, parameters: Any) -> Callable[..., Any]:
    scope = {"np": np, "ops": ops, "ml_dtypes": ml_dtypes}
    exec(f"def idiom({', '.join(parameters)}):\n    {line}", scope)
    return scope["idiom"]


FORBIDDEN = _kernels("idioms_forbidden.txt")
ALLOWED = _kernels("idioms_allowed.txt")
