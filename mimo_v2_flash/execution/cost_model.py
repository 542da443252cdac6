"""What a program costs, read from its instructions: a model of a compiler that fuses.

Views pass through. What is computed element by element is never stored, and reads its operands
once; of one array, or of weights alone, it is computed anew by whoever reads it. Everything else
(products, sums, gathers, concatenations, exchanges) is a temporary, written once and read by each
instruction that reads it. A gather reads what it gives. A write into an input writes what is new,
in place.

Source: XLA, `hlo_cost_analysis.cc`, for a single instruction; a rank of P sends (P - 1) / P of an
exchange, as rings and meshes do.
"""

from collections import Counter
from math import prod
from typing import Any, NamedTuple

from .hlo import ELEMENTWISE, VIEWS, ArrayShape, array_shapes, entry_computation
from .program_cost import Collective, Product, ProgramCost, Temporary

__all__ = ["cost_of"]

FREE = {"constant", "iota", "tuple"}
OPAQUE = {"call", "conditional", "fusion", "map", "while"}
READ_IN_PART = {"gather", "dynamic-slice"}

UPDATES = {"scatter": 2, "dynamic-update-slice": 1}
"""Which operand is what is new."""

SENT = {"all-gather": 1, "reduce-scatter": 1, "all-to-all": 1, "all-reduce": 2}
"""How often the larger of operand and result crosses the wire, but for a rank's own part."""


class _Source(NamedTuple):
    """So many different elements of an input (its path), or of an instruction (its number)."""

    origin: str | int
    elements: int
    item: int


def cost_of(module: Any, inputs: tuple[str, ...], weights: set[str]) -> ProgramCost:
    """Return what a program costs.

    Parameters
    ----------
    module
        An `HloModuleProto`, as nkipy makes it.
    inputs
        Paths of its inputs, in order.
    weights
        Those that are weights.

    Raises
    ------
    ValueError
        If an instruction calls what this does not look into.
    """
    walk, entry = _Walk(inputs, weights), entry_computation(module)
    for instruction in entry.instructions:
        walk.take(instruction)
    in_place = {
        entry.output_shape_index[0] if entry.output_shape_index else 0
        for entry in module.input_output_alias.entries
    }
    root = next(i for i in entry.instructions if i.id == entry.root_id)
    walk.give(root.operand_ids if root.opcode == "tuple" else [root.id], in_place)
    return walk.cost(sum(len(computation.instructions) for computation in module.computations))


class _Walk:
    """The instructions so far, by number: their shapes, where what they give comes from."""

    def __init__(self, inputs: tuple[str, ...], weights: set[str]) -> None:
        self._inputs, self._weights = inputs, weights
        self._parts: dict[int, list[ArrayShape]] = {}
        self._sources: dict[int, tuple[_Source, ...]] = {}
        self._stored: dict[str | int, int] = {}  # bytes
        self._read, self._written = Counter[str | int](), Counter[str | int]()
        self._products: list[Product] = []
        self._collectives: list[Collective] = []
        self._returned = 0

    def take(self, instruction: Any) -> None:
        """Count one instruction, whose operands have been counted."""
        if instruction.opcode in OPAQUE:
            raise ValueError(f"{instruction.name}: what a {instruction.opcode} costs is not known")
        self._parts[instruction.id] = list(array_shapes(instruction.shape))
        if instruction.opcode not in FREE:
            self._sources[instruction.id] = self._given(instruction)

    def give(self, outputs: Any, in_place: set[int]) -> None:
        """Count what the program returns; outputs `in_place` have been written."""
        for to_device, number in enumerate(outputs):
            if to_device not in in_place:
                sources = self._sources_of([number])
                self._count([s for s in sources if s.origin not in self._stored])
                for source in sources:
                    self._stored.pop(source.origin, None)
                self._returned += self._nbytes(number)

    def cost(self, instructions: int) -> ProgramCost:
        """Return the sum."""
        return ProgramCost(
            instructions,
            tuple(self._products),
            {path: self._read[path] for path in self._inputs},
            {str(path): size for path, size in self._written.items()},
            self._returned,
            tuple(Temporary(size, self._read[number]) for number, size in self._stored.items()),
            tuple(self._collectives),
        )

    def _given(self, instruction: Any) -> tuple[_Source, ...]:
        opcode, operands = instruction.opcode, instruction.operand_ids
        (part, *_), sources = self._parts[instruction.id], self._sources_of(operands)
        if opcode == "parameter":
            path = self._inputs[instruction.parameter_number]
            return (_Source(path, part.elements, part.item),)
        if opcode in VIEWS:
            return _narrowed(sources, part.elements, self._elements(operands[0]))
        if opcode in ELEMENTWISE:
            return self._fused(instruction.id, sources)
        if opcode in UPDATES and self._is_input(operands[0]):
            return self._updated(instruction)
        return self._temporary(instruction)

    def _fused(self, number: int, sources: tuple[_Source, ...]) -> tuple[_Source, ...]:
        if len(sources) < 2 or {source.origin for source in sources} <= self._weights:
            return sources
        self._count(sources)
        return (_Source(number, 0, 0),)

    def _updated(self, instruction: Any) -> tuple[_Source, ...]:
        target, *others = instruction.operand_ids
        self._count(self._sources_of(others))
        sources = self._sources[target]
        new = instruction.operand_ids[UPDATES[instruction.opcode]]
        self._written[sources[0].origin] += self._nbytes(new)
        return sources

    def _temporary(self, instruction: Any) -> tuple[_Source, ...]:
        number, opcode = instruction.id, instruction.opcode
        first, *others = instruction.operand_ids
        seen = self._sources_of([first])
        if opcode in READ_IN_PART:
            seen = tuple(s._replace(elements=self._elements(number)) for s in seen if s.elements)
        self._count((*seen, *self._sources_of(others)))
        if opcode == "dot":
            self._products.append(self._product(instruction))
        if opcode in SENT:
            ranks = len(instruction.replica_groups[0].replica_ids)
            larger = max(self._nbytes(first), self._nbytes(number))
            sent = SENT[opcode] * larger * (ranks - 1) // ranks
            self._collectives.append(Collective(opcode, ranks, sent))
        self._stored[number] = self._nbytes(number)
        return (_Source(number, self._elements(number), self._parts[number][0].item),)

    def _product(self, instruction: Any) -> Product:
        numbers = instruction.dot_dimension_numbers
        left, right = (self._parts[operand][0] for operand in instruction.operand_ids)
        batch = prod(left.lengths[axis] for axis in numbers.lhs_batch_dimensions)
        depth = prod(left.lengths[axis] for axis in numbers.lhs_contracting_dimensions)
        shared = batch * depth
        return Product(batch, left.elements // shared, depth, right.elements // shared)

    def _is_input(self, number: int) -> bool:
        """Return whether this is an input, whole and as it was."""
        ((origin, elements, item), *others) = self._sources.get(number, ()) or [(0, 0, 0)]
        part = self._parts[number][0]
        same = (elements, item) == (part.elements, part.item)
        return isinstance(origin, str) and same and not others

    def _sources_of(self, operands: Any) -> tuple[_Source, ...]:
        found = (source for number in operands for source in self._sources.get(number, ()))
        return tuple(dict.fromkeys(found))

    def _count(self, sources: Any) -> None:
        for origin, elements, item in sources:
            self._read[origin] += elements * item

    def _elements(self, number: int) -> int:
        return sum(part.elements for part in self._parts[number])

    def _nbytes(self, number: int) -> int:
        return sum(part.nbytes for part in self._parts[number])


def _narrowed(sources: tuple[_Source, ...], left: int, of: int) -> tuple[_Source, ...]:
    """Return `sources` of which a view shows `left` elements of so many."""
    part = min(left, of)
    return tuple(source._replace(elements=-(-source.elements * part // of)) for source in sources)
