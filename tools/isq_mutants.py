"""Mutants of quantizing: precedence of topologies, promotion, fallback, shares, the cache."""

from tools.kernel_mutants import Mutant

__all__ = ["ISQ_MUTANTS"]

TABLE, TOPOLOGY = "mimo_v2_flash/checkpoint/isq_table.py", "mimo_v2_flash/quantization/topology.py"
TABLE_TESTS = ("tests/checkpoint/test_isq_table.py",)
TOPOLOGY_TESTS = ("tests/quantization/test_topology.py",)

ISQ_MUTANTS = (
    Mutant(
        "embedding and head are not promoted",
        TABLE,
        "promoted = ISQ_TYPES[request.isq].promoted",
        "promoted = request.isq",
        TABLE_TESTS,
    ),
    Mutant(
        "a router is quantized as any matrix",
        TABLE,
        "return len(self.shape) != 2 or not self.name.endswith((*MULTIPLIED, EMBEDDING))",
        "return len(self.shape) != 2",
        TABLE_TESTS,
    ),
    Mutant(
        "rows without whole blocks take the type",
        TABLE,
        "while form and columns % (block := registry.get_format(form).block):",
        "while form and columns < (block := registry.get_format(form).block):",
        TABLE_TESTS,
    ),
    Mutant(
        "a range holds its end",
        TOPOLOGY,
        "    return range(start, end)\n",
        "    return range(start, end + 1)\n",
        TOPOLOGY_TESTS,
    ),
    Mutant(
        "the later range decides, whatever its end",
        TOPOLOGY,
        "        return sorted(ranges, key=lambda rule: rule.layers.stop if rule.layers else 0)",
        "        return sorted(ranges, key=lambda rule: 0)",
        TOPOLOGY_TESTS,
    ),
    Mutant(
        "the earlier regular expression decides",
        TOPOLOGY,
        "for rule in reversed(self.patterns):",
        "for rule in self.patterns:",
        TOPOLOGY_TESTS,
    ),
    Mutant(
        "of a selector that is there twice the last counts",
        TOPOLOGY,
        "if twice := [key for key in keys if keys.count(key) > 1]:",
        "if twice := []:",
        TOPOLOGY_TESTS,
    ),
)
