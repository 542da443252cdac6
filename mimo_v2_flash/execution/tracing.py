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
    donated
        Path of the input whose buffer the first output takes, if any.
    """

    module: Any
    inputs: tuple[str, ...]
    in_place: dict[int, str]
    output_tree: Any
    donated: str | None = None


def trace(
    function: Callable[..., Any], arguments: dict[str, Any], *, donate: str | None = None
) -> TracedProgram:
    """Return `function(**arguments)` as a program. Only the shapes and dtypes of arrays are read.

    Buffers that the function writes into are updated in place. The argument `donate` gives its
    buffer to the first output, so that hidden states stay in one.

    Parameters
    ----------
    function : callable
        What is traced.
    arguments : dict
        Its arguments by name: pytrees of arrays, and statics.
    donate : str, optional
        Name of the argument whose buffer the first output takes.

    Raises
    ------
    ValueError
        If the donated array is none, or the first output has another shape or dtype, or the HLO
        lint finds faults; the message names the instructions.
    """
    output_trees = []

    def program(**tensors: Any) -> list[Any]:
        output_tree = function(**tree_replace(arguments, tensors))
        outputs = tree_arrays(output_tree)
        output_trees.append(_numbered(output_tree, outputs))
        first, *others = outputs.values()
        if donate is not None:
            donated = tensors[donate]
            if (donated.shape, donated.dtype) != (first.shape, first.dtype):
                raise ValueError(
                    f"program {_name(function)}: {donate} is {donated.dtype} {donated.shape}, "
                    f"but the output that would take its buffer {first.dtype} {first.shape}"
                )
            donated[...] = first
            first = donated
        return [first, *others]

    program.__name__ = _name(function)
    specs = {  # arrays of the same shapes and dtypes that take no memory
        path: np.broadcast_to(np.zeros((), array.dtype), array.shape)
        for path, array in tree_arrays(arguments).items()
    }
    if donate is not None and donate not in specs:
        raise ValueError(f"program {_name(function)}: {donate} is no array, to be donated")
    module = NKIPyKernel.trace(program).specialize(**specs)
    in_place = {alias.output_index: alias.param_name for alias in module.aliases}
    traced = TracedProgram(module.to_proto(), tuple(specs), in_place, output_trees[0], donate)
    if faults := lint_program(traced.module):
        raise ValueError(f"program {_name(function)}: {'; '.join(faults[:5])}")
    return traced


def _numbered(output_tree: Any, outputs: dict[str, Any]) -> Any:
    """Return `output_tree` with the number of each output in place of its array."""
    number = {path: index for index, path in enumerate(outputs)}
    return tree_map(lambda path, _: number[path], output_tree)


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__)).lower()
