"""Which format each weight gets when a checkpoint is quantized, and the rule that decided.

table = isq_table(weights, IsqRequest("q4_k"))
table[0].name, table[0].form, table[0].rule

A regular expression of the topology decides, then its ranges of layers, then the type of --isq.
What must stay precise does: norms and sinks; routers and their biases, which choose experts.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from math import prod
from os import PathLike
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.quantization import registry
from mimo_v2_flash.quantization.isq_types import ISQ_TYPES, TABLES, isq_name, parse_isq
from mimo_v2_flash.quantization.topology import Topology, TopologyRule, read_topology

from .param_specs import EMBEDDING, HEAD, MULTIPLIED

__all__ = [
    "IsqRequest",
    "IsqRow",
    "StoredWeight",
    "isq_lint",
    "isq_table",
    "layer_of",
    "sizes_by_form",
]

LAYER = re.compile(r"model\.layers\.(\d+)\.")
AS_STORED, PRECISE = "as stored", "stays precise"


class IsqRequest(NamedTuple):
    """What weights are quantized to.

    Attributes
    ----------
    isq
        The format of what no rule of the topology covers; None leaves it as stored.
    topology
        The rules of a topology file.
    """

    isq: str | None = None
    topology: Topology = Topology()

    @classmethod
    def of(
        cls,
        isq: str | int | None = None,
        topology: str | PathLike[str] | Topology | None = None,
    ) -> "IsqRequest":
        """Return the request of a type, by any of its names, and of a topology or its file.

        Raises
        ------
        FileNotFoundError, ValueError
            As of `parse_isq` and `read_topology`.
        """
        if topology is None or isinstance(topology, str | PathLike):
            topology = Topology() if topology is None else read_topology(topology)
        return cls(None if isq is None else parse_isq(str(isq)), topology)

    @property
    def forms(self) -> set[str]:
        """The formats that it asks for, before promotions and fallbacks."""
        return set(filter(None, (self.isq, *(rule.isq for rule in self.topology.rules))))

    @property
    def text(self) -> str:
        """The request as JSON, which the metadata of prepared weights have; empty for nothing."""
        rules = {rule.selector: {"isq": rule.isq or ""} for rule in self.topology.rules}
        content = {"isq": self.isq, "topology": rules}
        return json.dumps(content) if self.isq or rules else ""

    @classmethod
    def of_text(cls, text: str) -> "IsqRequest":
        """Return the request whose `text` this is; ValueError if it is damaged."""
        if not text:
            return cls()
        try:
            content = json.loads(text)
            isq, entries = content["isq"], content["topology"]
            return cls(isq and parse_isq(isq), Topology.of_entries(entries))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"isq of prepared weights is damaged: {error}") from error


class StoredWeight(NamedTuple):
    """A weight of a checkpoint: its name, its shape, its format or safetensors dtype, its bytes."""

    name: str
    shape: tuple[int, ...]
    stored: str
    nbytes: int

    @property
    def is_precise(self) -> bool:
        """Whether it stays as it is: a norm, a bias, sinks, or a router."""
        return len(self.shape) != 2 or not self.name.endswith((*MULTIPLIED, EMBEDDING))


class IsqRow(NamedTuple):
    """What becomes of a weight.

    Attributes
    ----------
    name, shape
        The weight.
    form
        The format that it is quantized to; empty if it stays as stored.
    stored
        The format or dtype that it has, which it keeps if `form` is empty.
    nbytes
        Its bytes afterwards.
    rule
        What decided.
    """

    name: str
    shape: tuple[int, ...]
    form: str
    stored: str
    nbytes: int
    rule: str


def layer_of(name: str) -> int | None:
    """Return the index of a weight's decoder layer, None if it is in none."""
    match = LAYER.match(name)
    return int(match[1]) if match else None


def isq_table(weights: Iterable[StoredWeight], request: IsqRequest) -> list[IsqRow]:
    """Return what becomes of each weight, in their order."""
    return [_row(weight, *_decide(weight, request)) for weight in weights]


def _row(weight: StoredWeight, form: str, rule: str) -> IsqRow:
    name, shape, stored, nbytes = weight
    if form == stored:
        form = ""
    if form:
        nbytes = _nbytes(form, shape)
    return IsqRow(name, shape, form, stored, nbytes, rule)


def _decide(weight: StoredWeight, request: IsqRequest) -> tuple[str, str]:
    """Return the format of a weight, empty for none, and the rule in words."""
    if weight.is_precise:
        return "", PRECISE
    rule = request.topology.rule_for(weight.name, layer_of(weight.name))
    if rule is not None:
        return _fitting(weight, rule.isq or "", rule.selector)
    if request.isq is None:
        return "", AS_STORED
    name = f"--isq {isq_name(request.isq)}"
    if weight.name in (EMBEDDING, HEAD):
        promoted = ISQ_TYPES[request.isq].promoted
        if promoted != request.isq:
            name += "; embedding and head are promoted" if promoted else "; not embedding and head"
        return _fitting(weight, promoted, name)
    return _fitting(weight, request.isq, name)


def _fitting(weight: StoredWeight, form: str, rule: str) -> tuple[str, str]:
    """Return a format that can store the weight's rows, and the rule."""
    columns = weight.shape[1]
    if form and weight.name == EMBEDDING and form not in TABLES:
        return "", f"{rule}; no embedding is {isq_name(form)}"
    while form and columns % (block := registry.get_format(form).block):
        rule += f"; rows of {columns} have no blocks of {block}"
        form = ISQ_TYPES[form].fallback
    if form and _joins_rows(form, weight.shape) and weight.stored in registry.FORMATS:
        return "", f"{rule}; is {isq_name(weight.stored)} already"
    return form, rule


def _joins_rows(form: str, shape: tuple[int, ...]) -> bool:
    """Return whether the format stores rows together: what is read in other parts has none."""
    kind = registry.get_format(form)
    return max(kind.row_groups("", kind.stored_shapes(shape)).values()) > 1


def _nbytes(form: str, shape: tuple[int, ...]) -> int:
    kind = registry.get_format(form)
    shapes = kind.stored_shapes(shape)
    return sum(prod(shapes[t.field]) * np.dtype(t.dtype).itemsize for t in kind.tensors)


def sizes_by_form(table: Iterable[IsqRow]) -> dict[str, int]:
    """Return the bytes of all weights of each format or dtype, the largest first."""
    sizes = Counter[str]()
    for row in table:
        sizes[row.form or row.stored] += row.nbytes
    return dict(sizes.most_common())


def isq_lint(table: Sequence[IsqRow], request: IsqRequest, num_layers: int) -> list[str]:
    """Return what is odd in a topology for a model of so many layers, a line each.

    Parameters
    ----------
    table : sequence of IsqRow
        Type of each weight, and the rule that it comes from.
    request : IsqRequest
        What was asked for.
    num_layers : int
        Layers of the model.
    """
    topology = request.topology
    if not topology.rules:
        return []
    return [
        *(
            f"{weaker.selector} and {stronger.selector} overlap: {stronger.selector} decides for "
            f"{_span(shared)}"
            for weaker, stronger, shared in topology.overlaps()
        ),
        *(
            f"{rule.selector}: the model has {num_layers} layers, 0 to {num_layers - 1}"
            for rule in topology.ranges
            if rule.layers and rule.layers.stop > num_layers
        ),
        *_idle_patterns(table, topology.patterns),
        *_uncovered(table, request),
    ]


def _idle_patterns(table: Sequence[IsqRow], patterns: Iterable[TopologyRule]) -> Iterator[str]:
    names = [row.name for row in table if row.rule != PRECISE]
    for rule in patterns:
        if rule.pattern and not any(map(rule.pattern.search, names)):
            yield f"{rule.selector} matches no weight that can be quantized"


def _uncovered(table: Sequence[IsqRow], request: IsqRequest) -> Iterator[str]:
    """Yield a line about each run of layers that have weights without a rule, with their bytes."""
    sizes = Counter[int]()
    for row in table:
        layer = layer_of(row.name)
        if layer is not None and row.rule != PRECISE:
            is_covered = request.topology.rule_for(row.name, layer) is not None
            sizes[layer] += 0 if is_covered else row.nbytes
    layers = sorted(layer for layer, size in sizes.items() if size)
    form = f"{isq_name(request.isq)} of --isq" if request.isq else AS_STORED
    for _, group in groupby(enumerate(layers), lambda pair: pair[1] - pair[0]):
        run = [layer for _, layer in group]
        amount = sum(sizes[layer] for layer in run) / 1e9
        yield f"no rule for {_span(range(run[0], run[-1] + 1))} ({amount:.3g} GB): {form}"


def _span(layers: range) -> str:
    first, last = layers.start, layers.stop - 1
    return f"layer {first}" if first == last else f"layers {first} to {last}"
