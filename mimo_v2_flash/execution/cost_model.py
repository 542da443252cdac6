"""A cost model of HLO programs: matmuls, memory traffic and collectives after fusion.

The model assumes a compiler that fuses. Views cost nothing. The result of an elementwise operation
is never stored, and the operation reads its operands once; but an elementwise operation on a single
array, or on weights alone, is repeated by each reader. The result of every other instruction
(matmuls, sums, gathers, concatenations, collectives) is a temporary, written once and read by each
of its readers. A gather reads as many elements as it returns. An update of an input writes the new
elements, in place.

Source: XLA, `hlo_cost_analysis.cc`, for a single instruction. In a collective, each of P ranks
sends (P - 1) / P of the data, as rings and meshes do.
"""

from collections import Counter
from math import prod
from typing import Any, NamedTuple

from .hlo import ELEMENTWISE, VIEWS, ArrayShape, array_shapes, entry_computation
from .program_cost import Collective, Matmul, ProgramCost, Temporary

__all__ = ["analyze_cost"]

FREE = {"constant", "iota", "tuple"}
OPAQUE = {"call", "conditional", "fusion", "map", "while"}
READ_IN_PART = {"gather", "dynamic-slice"}

UPDATES = {"scatter": 2, "dynamic-update-slice": 1}
"""Number of the operand that has the new elements, by opcode."""

SEND_FACTORS = {"all-gather": 1, "reduce-scatter": 1, "all-to-all": 1, "all-reduce": 2}
"""How often the larger of operand and result is sent, times (P - 1) / P, by opcode."""


class _Source(NamedTuple):
    """Elements that an instruction reads of an input or of another instruction.

    Attributes
    ----------
    origin
        Path of the input, or id of the instruction.
    elements
        How many distinct elements are read.
    itemsize
        Bytes per element.
    """

    origin: str | int
    elements: int
    itemsize: int


def analyze_cost(module: Any, inputs: tuple[str, ...], weights: set[str]) -> ProgramCost:
    """Return the cost of a program.

    Parameters
    ----------
    module
        HLO module that nkipy traced, an `HloModuleProto`.
    inputs
        Paths of its inputs, in order.
    weights
        Paths of the inputs that are weights.

    Raises
    ------
    ValueError
        If an instruction calls another computation, such as a loop, which has no cost model.
    """
    analysis, entry = _CostAnalysis(inputs, weights), entry_computation(module)
    for instruction in entry.instructions:
        analysis.visit(instruction)
    in_place = {
        entry.output_shape_index[0] if entry.output_shape_index else 0
        for entry in module.input_output_alias.entries
    }
    root = next(i for i in entry.instructions if i.id == entry.root_id)
    analysis.visit_outputs(root.operand_ids if root.opcode == "tuple" else [root.id], in_place)
    return analysis.cost(sum(len(computation.instructions) for computation in module.computations))


class _CostAnalysis:
    """The cost of the instructions visited so far, with their shapes and sources by id."""

    def __init__(self, inputs: tuple[str, ...], weights: set[str]) -> None:
        self._inputs, self._weights = inputs, weights
        self._shapes: dict[int, list[ArrayShape]] = {}
        self._sources: dict[int, tuple[_Source, ...]] = {}
        self._stored: dict[str | int, int] = {}  # bytes
        self._read, self._written = Counter[str | int](), Counter[str | int]()
        self._matmuls: list[Matmul] = []
        self._collectives: list[Collective] = []
        self._returned = 0

    def visit(self, instruction: Any) -> None:
        """Add the cost of an instruction whose operands have been visited."""
        if instruction.opcode in OPAQUE:
            raise ValueError(f"{instruction.name}: no cost model for {instruction.opcode}")
        self._shapes[instruction.id] = list(array_shapes(instruction.shape))
        if instruction.opcode not in FREE:
            self._sources[instruction.id] = self._result_sources(instruction)

    def visit_outputs(self, outputs: Any, in_place: set[int]) -> None:
        """Add the cost of the program's outputs; those `in_place` have been written already."""
        for index, number in enumerate(outputs):
            if index not in in_place:
                sources = self._sources_of([number])
                self._count([s for s in sources if s.origin not in self._stored])
                for source in sources:
                    self._stored.pop(source.origin, None)
                self._returned += self._nbytes(number)

    def cost(self, instructions: int) -> ProgramCost:
        """Return the cost of the program."""
        return ProgramCost(
            instructions,
            tuple(self._matmuls),
            {path: self._read[path] for path in self._inputs},
            {str(path): size for path, size in self._written.items()},
            self._returned,
            tuple(Temporary(size, self._read[number]) for number, size in self._stored.items()),
            tuple(self._collectives),
        )

    def _result_sources(self, instruction: Any) -> tuple[_Source, ...]:
        """Return what a reader of the instruction reads; add the cost of the instruction."""
        opcode, operands = instruction.opcode, instruction.operand_ids
        (shape, *_), sources = self._shapes[instruction.id], self._sources_of(operands)
        if opcode == "parameter":
            path = self._inputs[instruction.parameter_number]
            return (_Source(path, shape.elements, shape.itemsize),)
        if opcode in VIEWS:
            return _narrowed(sources, shape.elements, self._elements(operands[0]))
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
        read = self._sources_of([first])
        if opcode in READ_IN_PART:
            read = tuple(s._replace(elements=self._elements(number)) for s in read if s.elements)
        self._count((*read, *self._sources_of(others)))
        if opcode == "dot":
            self._matmuls.append(self._matmul(instruction))
        if opcode in SEND_FACTORS:
            ranks = len(instruction.replica_groups[0].replica_ids)
            larger = max(self._nbytes(first), self._nbytes(number))
            sent = SEND_FACTORS[opcode] * larger * (ranks - 1) // ranks
            self._collectives.append(Collective(opcode, ranks, sent))
        self._stored[number] = self._nbytes(number)
        return (_Source(number, self._elements(number), self._shapes[number][0].itemsize),)

    def _matmul(self, instruction: Any) -> Matmul:
        numbers = instruction.dot_dimension_numbers
        left, right = (self._shapes[operand][0] for operand in instruction.operand_ids)
        batch = prod(left.lengths[axis] for axis in numbers.lhs_batch_dimensions)
        depth = prod(left.lengths[axis] for axis in numbers.lhs_contracting_dimensions)
        shared = batch * depth
        return Matmul(batch, left.elements // shared, depth, right.elements // shared)

    def _is_input(self, number: int) -> bool:
        """Return whether an instruction is a whole input, unchanged."""
        ((origin, elements, itemsize), *others) = self._sources.get(number, ()) or [(0, 0, 0)]
        shape = self._shapes[number][0]
        same = (elements, itemsize) == (shape.elements, shape.itemsize)
        return isinstance(origin, str) and same and not others

    def _sources_of(self, operands: Any) -> tuple[_Source, ...]:
        sources = (source for number in operands for source in self._sources.get(number, ()))
        return tuple(dict.fromkeys(sources))

    def _count(self, sources: Any) -> None:
        for origin, elements, itemsize in sources:
            self._read[origin] += elements * itemsize

    def _elements(self, number: int) -> int:
        return sum(shape.elements for shape in self._shapes[number])

    def _nbytes(self, number: int) -> int:
        return sum(shape.nbytes for shape in self._shapes[number])


def _narrowed(sources: tuple[_Source, ...], visible: int, total: int) -> tuple[_Source, ...]:
    """Return the sources of a view that shows `visible` of `total` elements."""
    part = min(visible, total)
    return tuple(
        source._replace(elements=-(-source.elements * part // total)) for source in sources
    )
