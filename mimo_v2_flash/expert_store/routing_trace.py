"""Recorded routing: which experts each token chose in each call of a layer, as lines of JSON.

The first line says what the routing is of. Each other line is a call of a layer, in the order of
computing: the layer's number, whether its tokens are decoded ones, and the ids that each chose.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from mimo_v2_flash.json_object import parse_json_object, shorten

__all__ = ["LayerCall", "RoutingHeader", "RoutingTrace", "read_trace", "write_call"]

FORMAT = "mimo-routing-1"


class RoutingHeader(NamedTuple):
    """What recorded routing is of.

    Attributes
    ----------
    model, prompt_sha256, seed
        The model's name, the digest of the prompt, and the seed of sampling; None if not known.
    is_mimo
        Whether the model has the sizes of MiMo-V2-Flash.
    layers
        The numbers of the layers that have experts.
    expert_bytes
        Bytes of each expert of each of these layers, as a store holds it.
    """

    model: str
    prompt_sha256: str | None
    seed: int | None
    is_mimo: bool
    layers: list[int]
    expert_bytes: list[list[int]]

    def write(self, file: TextIO) -> None:
        """Write the first line."""
        file.write(json.dumps({"format": FORMAT, **self._asdict()}) + "\n")

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each expert."""
        return np.array(self.expert_bytes, np.int64)


class LayerCall(NamedTuple):
    """A call of a layer.

    Attributes
    ----------
    layer
        Its index among the layers that have experts.
    is_decode
        Whether all tokens are decoded ones, and none is of a prompt's chunk.
    expert_NA
        The ids of the experts that each token chose.
    """

    layer: int
    is_decode: bool
    expert_NA: np.ndarray

    @property
    def experts(self) -> np.ndarray:
        """The experts that any of the tokens chose, in ascending order."""
        return np.unique(self.expert_NA)


class RoutingTrace(NamedTuple):
    """Recorded routing: its header, and all calls in the order of computing."""

    header: RoutingHeader
    calls: Sequence[LayerCall]


def write_call(file: TextIO, layer: int, is_decode: bool, expert_NA: np.ndarray) -> None:
    """Write a call of a layer, by its number, as a line.

    Parameters
    ----------
    file : TextIO
        The file.
    layer : int
        Number of the layer.
    is_decode : bool
        Whether every sequence has one token.
    expert_NA : array of int
        Experts that each token chose.
    """
    line = {"layer": layer, "decode": is_decode, "experts": expert_NA.tolist()}
    file.write(json.dumps(line, separators=(",", ":")) + "\n")


def read_trace(path: Path) -> RoutingTrace:
    """Return recorded routing.

    Raises
    ------
    ValueError
        If the file is none, or a line of it is damaged; the line is named.
    """
    with path.open("rb") as file:
        header = _header(path, file.readline())
        index_of = {layer: index for index, layer in enumerate(header.layers)}
        sizes = header.sizes.shape
        calls = [
            _call(f"{path}: line {number}", line, index_of, sizes[1])
            for number, line in enumerate(file, 2)
        ]
    return RoutingTrace(header, calls)


def _header(path: Path, line: bytes) -> RoutingHeader:
    try:
        content = parse_json_object(line)
        header = RoutingHeader(**{name: content[name] for name in RoutingHeader._fields})
        is_sound = content["format"] == FORMAT and header.sizes.shape[0] == len(header.layers)
        if not is_sound or header.sizes.ndim != 2 or header.sizes.min() < 1:
            raise ValueError("its sizes do not fit its layers")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: no recorded routing, as --record-routing writes it: {shorten(str(error))}"
        ) from error
    return header


def _call(where: str, line: bytes, index_of: dict[int, int], experts: int) -> LayerCall:
    try:
        content: dict[str, Any] = parse_json_object(line)
        call = LayerCall(
            index_of[content["layer"]],
            bool(content["decode"]),
            np.array(content["experts"], np.int64),
        )
        if call.expert_NA.ndim != 2 or not call.expert_NA.size:
            raise ValueError("no ids of experts for each token")
        if call.expert_NA.min() < 0 or call.expert_NA.max() >= experts:
            raise ValueError(f"an id of an expert is not one of {experts}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: no call of a layer: {shorten(str(error))}") from error
    return call
