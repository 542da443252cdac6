"""Every kernel test runs on NumPy's arrays, on the strict arrays of the dialect, and traced on XLA.

@every_kind
@given(...)
def test_norm_is_one(on, x_BTD): ... on(rmsnorm)(x_BTD, ...)

The third needs nkipy, and runs with fewer examples: `make test-nkipy`.
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
class _Called:
    """A kernel with its arguments as two records: some kernels take them by position alone."""

    kernel: Callable[..., Any]

    def __call__(self, given: tuple[Any, ...], static: dict[str, Any]) -> Any:
        """Return what the kernel says, or a sign that it says nothing."""
        said = self.kernel(*given, **static)
        first, *_ = tree_arrays((given, static)).values()
        return {NOTHING: ops.full(first, (1,), 0.0, np.float32)} if said is None else said


def _on_xla(kernel):
    def call(*given, **static):
        placed = _xla().to_device((given, static))
        try:
            said = _xla().compile(_Called(kernel))(*placed)
        except ValueError as error:
            if "an empty tensor" in str(error):
                reject()  # programs have none
            raise
        if isinstance(said, dict) and NOTHING in said:  # it wrote into what it was given
            for array, written in zip(
                tree_arrays((given, static)).values(), tree_arrays(placed).values(), strict=True
            ):
                array[...] = np.asarray(written)
            return None
        return tree_map(lambda _, leaf: np.asarray(leaf), said)

    return call


@cache
def _xla():
    pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
    pytest.importorskip("jax")
    return import_module("mimo_v2_flash.execution.xla").XlaBackend()


HOST = [pytest.param(_on_numpy, id="numpy"), pytest.param(_on_strict_arrays, id="strict")]
XLA = pytest.param(_on_xla, id="xla", marks=pytest.mark.nkipy)

every_kind = pytest.mark.parametrize("on", [*HOST, XLA])
host_kinds = pytest.mark.parametrize("on", HOST)  # ranks are threads, or arrays change in place
