"""A function of records, traced by nkipy into a program: the module that neuronx-cc compiles.

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
    """A program of static shapes.

    Attributes
    ----------
    module
        An `HloModuleProto`.
    inputs
        Paths of the arrays that it takes, in order.
    in_place
        Which outputs lie where an input lay: the input's path by the output's number.
    answer
        What the function returns, with the numbers of outputs in place of arrays.
    """

    module: Any
    inputs: tuple[str, ...]
    in_place: dict[int, str]
    output_tree: Any


def trace(function: Callable[..., Any], arguments: dict[str, Any]) -> TracedProgram:
    """Return `function(**arguments)` as a program. Only the shapes and dtypes of arrays are read.

    Arrays that the function writes into are changed in place. So is the first one that it is
    given if the first one that it returns is like it: a stream stays where it is.

    Raises
    ------
    ValueError
        If the program holds what Trainium2's compiler refuses; the message names the instructions.
    """
    answers = []

    def program(**tensors: Any) -> list[Any]:
        output_tree = function(**tree_replace(arguments, tensors))
        outputs = tree_arrays(output_tree)
        answers.append(_numbered(output_tree, outputs))
        (stream, *_), (first, *others) = tensors.values(), outputs.values()
        if (stream.shape, stream.dtype) == (first.shape, first.dtype):
            stream[...] = first
            first = stream
        return [first, *others]

    program.__name__ = _name(function)
    stand_ins = {path: _stand_in(array) for path, array in tree_arrays(arguments).items()}
    module = NKIPyKernel.trace(program).specialize(**stand_ins)
    in_place = {alias.output_index: alias.param_name for alias in module.aliases}
    traced = TracedProgram(module.to_proto(), tuple(stand_ins), in_place, answers[0])
    if found := lint_program(traced.module):
        raise ValueError(f"program {_name(function)}: {'; '.join(found[:5])}")
    return traced


def _stand_in(array: Any) -> np.ndarray:
    """Return an array of the same shape and dtype that takes no memory."""
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


def _numbered(output_tree: Any, outputs: dict[str, Any]) -> Any:
    number = {path: index for index, path in enumerate(outputs)}
    return tree_map(lambda path, _: number[path], output_tree)


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__)).lower()
