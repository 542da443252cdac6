"""The storage formats by name, and the format of a weight in a checkpoint."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from .quantized_tensor import QuantizedTensor
from .stored_layout import Projections, StoredLayout

__all__ = [
    "FORMATS",
    "HUB_FORMAT",
    "find_format",
    "find_joint_layout",
    "get_format",
    "register_format",
]

Format = TypeVar("Format", bound=type[QuantizedTensor])

HUB_FORMAT = "fp8"
"""The format of most matmul weights in the hub's checkpoints of the model."""

FORMATS: dict[str, type[QuantizedTensor]] = {}


def register_format(new: Format) -> Format:
    """Register a format under its name, as a decorator of its class.

    Raises
    ------
    ValueError
        If another format has this name.
    """
    if FORMATS.setdefault(new.format, new) is not new:
        raise ValueError(f"format {new.format!r} is {FORMATS[new.format].__name__} already")
    return new


def get_format(name: str) -> type[QuantizedTensor]:
    """Return the format called `name`.

    Raises
    ------
    ValueError
        If there is none; the message names all.
    """
    if name not in FORMATS:
        raise ValueError(f"format {name!r}, expected one of {', '.join(FORMATS)}")
    return FORMATS[name]


def find_format(tensors: Mapping[str, np.ndarray], weight: str) -> type[QuantizedTensor] | None:
    """Return the format of the weight called `weight` in a checkpoint, or None: a plain array.

    A format must have all its tensors; of several formats, one whose dtypes are these.
    """
    stored = [form for form in FORMATS.values() if form.is_stored(tensors, weight)]
    for form in stored:
        arrays = form.read(tensors, weight)
        if all(tensor.accepts(arrays[tensor.field].dtype) for tensor in form.tensors):
            return form
    return next(iter(stored), None)


def find_joint_layout(
    projections: Projections, tensors: Mapping[str, Any], where: Callable[[str], str]
) -> StoredLayout | None:
    """Return the layout of a layer's q, k and v that must be read together, in whatever format.

    The parameters, and ValueError, are those of `QuantizedTensor.joint_layout`.

    Parameters
    ----------
    projections : Projections
        Names and shapes of the layer's q, k and v.
    tensors : mapping of str
        Tensors, or their TensorInfo, by name.
    where : callable
        Returns where a tensor is, for messages.
    """
    layouts = (form.joint_layout(projections, tensors, where) for form in FORMATS.values())
    return next(filter(None, layouts), None)
