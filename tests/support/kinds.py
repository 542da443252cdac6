"""Parametrisation of kernel tests by array kind: NumPy, strict arrays of the dialect, XLA.

@every_kind
@given(...)
def test_norm_is_one(on, x_BTD): ... on(rmsnorm)(x_BTD, ...)

XLA traces the kernel. It needs nkipy, and runs with fewer examples: `make test-nkipy`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import reject

from mimo_v2_flash.execution.pytree import tree_arrays, tree_map
from mimo_v2_flash.kernels import ops
from tests.support.dialect import strictly
from tests.support.shape_contract import contracted

NOTHING = "nothing"


def _on_numpy(kernel):
    return contracted(kernel)


def _on_strict_arrays(kernel):
    return contracted(strictly(kernel))


@dataclass(frozen=True)
class _Packed:
    """A kernel called with (args, kwargs) as two pytrees: some arguments are positional-only."""

    kernel: Callable[..., Any]

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the kernel's output, or {NOTHING: zero} if it returns None."""
        output = self.kernel(*args, **kwargs)
        first, *_ = tree_arrays((args, kwargs)).values()
        return {NOTHING: ops.full(first, (1,), 0.0, np.float32)} if output is None else output


def _on_xla(kernel):
    def call(*args, **kwargs):
        placed = _xla().to_device((args, kwargs))
        try:
            output = _xla().compile(_Packed(kernel))(*placed)
        except ValueError as error:
            if "an empty tensor" in str(error):
                reject()  # programs cannot have empty tensors
            raise
        if isinstance(output, dict) and NOTHING in output:  # it wrote into its arguments
            for array, written in zip(
                tree_arrays((args, kwargs)).values(), tree_arrays(placed).values(), strict=True
            ):
                array[...] = np.asarray(written)
            return None
        return tree_map(lambda _, leaf: np.asarray(leaf), output)

    return call


@cache
def _xla():
    pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
    pytest.importorskip("jax")
    return import_module("mimo_v2_flash.execution.xla").XlaBackend()


HOST = [pytest.param(_on_numpy, id="numpy"), pytest.param(_on_strict_arrays, id="strict")]
XLA = pytest.param(_on_xla, id="xla", marks=pytest.mark.nkipy)

every_kind = pytest.mark.parametrize("on", [*HOST, XLA])
# For ranks that are threads, or arrays that change in place.
host_kinds = pytest.mark.parametrize("on", HOST)
