"""Tracing with nkipy: from a function of pytrees to the HLO module that neuronx-cc compiles.

Source: nkipy, github.com/aws-neuron/nkipy, `core/trace.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from nkipy.core.trace import NKIPyKernel

from .hlo_lint import lint_program
from .pytree import tree_arrays, tree_map, tree_replace

__all__ = ["TracedProgram", "trace"]


@dataclass(frozen=True)
class TracedProgram:
    """A traced program, with static shapes.

    Attributes
    ----------
    module
        HLO module, an `HloModuleProto`.
    inputs
        Paths of the input arrays, in order.
    in_place
        Path of the aliased input, by the number of the output that is written into it.
    output_tree
        Pytree that the function returns, with the numbers of outputs in place of arrays.
    """

    module: Any
    inputs: tuple[str, ...]
    in_place: dict[int, str]
    output_tree: Any


def trace(function: Callable[..., Any], arguments: dict[str, Any]) -> TracedProgram:
    """Return `function(**arguments)` as a program. Only the shapes and dtypes of arrays are read.

    Buffers that the function writes into are updated in place. The first input is donated to the
    first output if their shapes and dtypes are equal, so that hidden states stay in one buffer.

    Raises
    ------
    ValueError
        If the HLO lint finds faults; the message names the instructions.
    """
    output_trees = []

    def program(**tensors: Any) -> list[Any]:
        output_tree = function(**tree_replace(arguments, tensors))
        outputs = tree_arrays(output_tree)
        output_trees.append(_numbered(output_tree, outputs))
        (donated, *_), (first, *others) = tensors.values(), outputs.values()
        if (donated.shape, donated.dtype) == (first.shape, first.dtype):
            donated[...] = first
            first = donated
        return [first, *others]

    program.__name__ = _name(function)
    specs = {path: _meta_array(array) for path, array in tree_arrays(arguments).items()}
    module = NKIPyKernel.trace(program).specialize(**specs)
    in_place = {alias.output_index: alias.param_name for alias in module.aliases}
    traced = TracedProgram(module.to_proto(), tuple(specs), in_place, output_trees[0])
    if faults := lint_program(traced.module):
        raise ValueError(f"program {_name(function)}: {'; '.join(faults[:5])}")
    return traced


def _meta_array(array: Any) -> np.ndarray:
    """Return an array of the same shape and dtype that takes no memory."""
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


def _numbered(output_tree: Any, outputs: dict[str, Any]) -> Any:
    """Return `output_tree` with the number of each output in place of its array."""
    number = {path: index for index, path in enumerate(outputs)}
    return tree_map(lambda path, _: number[path], output_tree)


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__)).lower()
