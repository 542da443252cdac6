"""Programs of the full-size model on 32 and 64 ranks: no lint faults, and no wasted work.

Each program reads its rank's weights once and its filled cache slots once, and computes for its
tokens. Tracing reads only shapes, so the tests compute nothing and take no memory.
"""

from dataclasses import replace
from functools import cache

import pytest

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.costs.deployment import Deployment
from mimo_v2_flash.costs.ledger import price
from mimo_v2_flash.costs.program_names import sequence_run
from mimo_v2_flash.costs.step_programs import step_programs
from mimo_v2_flash.execution.hlo_lint import lint_program
from mimo_v2_flash.execution.pytree import tree_arrays
from mimo_v2_flash.layers.decoder import QUERY_BLOCK
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.traced_costs import xla_cost

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytestmark = pytest.mark.nkipy

LAYERS = {"layers_per_program": 1}
DEPLOYMENTS = {
    "32 ranks, FP8": Deployment(MiMoConfig(), ParallelConfig(32, 4, 8), 8, 1024, **LAYERS),
    "32 ranks, bfloat16": Deployment(
        MiMoConfig(), ParallelConfig(32, 4, 8), 8, 1024, weight_dtype="bfloat16", **LAYERS
    ),
    "64 ranks, 2 rows each": Deployment(
        MiMoConfig(), ParallelConfig(64, 4, 16), 32, 1024, **LAYERS
    ),
    "64 ranks, one row": Deployment(
        MiMoConfig(), ParallelConfig(64, 64, 1), 1, 32_768, 512, **LAYERS
    ),
}
MOST_INSTRUCTIONS = {  # in FP8, in bfloat16
    "embedding": (10, 10),
    "head": (120, 120),
    "sliding attention + experts": (1700, 1000),
    "full attention + experts": (1700, 1000),
    "full attention + dense network": (1600, 400),
    "sliding attention": (800, 350),
    "full attention": (800, 350),
    "experts": (5000, 1600),
    "take tokens": (250, 250),
    "put tokens": (500, 500),
}
COPIED = 32  # tokens
MOST_OF_LAST_BUCKET = 13_000  # the bucket for tokens that all choose the same rank
SMALL = 1 << 12  # bytes of a weight that stays on the chip once it has been read: norms, sinks
CHUNK = 5  # fewest tokens of a chunk

every_deployment = pytest.mark.parametrize("name", DEPLOYMENTS)


@cache
def traced(name: str):
    steps = step_programs(DEPLOYMENTS[name])
    return steps, price(steps)


def parts(program: str) -> tuple[str, int, int]:
    """Return a program's kind, its rows and its tokens."""
    what, sizes, *_ = program.split(", ")
    rows, tokens = sizes.split(" of ")[-1].removesuffix(" tokens").split(" x ")
    return what.removesuffix(" of logits"), int(rows), int(tokens)


def last_bucket(programs) -> set[str]:
    """Return the programs whose capacity suffices for any tokens."""
    capacity = {p: int(p.split()[-2]) for p in programs if p.endswith("seats")}
    return {program for program, count in capacity.items() if count == max(capacity.values())}


@every_deployment
def test_a_program_has_nothing_that_the_compiler_refuses(name):
    steps, _ = traced(name)
    last, column = last_bucket(steps.programs), DEPLOYMENTS[name].weight_dtype == "bfloat16"
    for program, called in steps.programs.items():
        most = MOST_INSTRUCTIONS[parts(program)[0]][column]
        most = MOST_OF_LAST_BUCKET if program in last else most
        assert lint_program(called.traced.module, most_instructions=most) == [], program


@every_deployment
def test_hidden_states_and_caches_are_updated_in_place(name):
    for program, called in traced(name)[0].programs.items():
        expected = set()
        if "attention" in program:
            expected = {"x_ND", "cache.k_ZKQ", "cache.v_ZKC", "cache.position_Z"}
        if program.startswith("put tokens"):
            expected = {path for path in called.traced.inputs if path.startswith("caches.")}
            assert len(expected) in (3 * 9, 3 * 39)
        assert expected <= set(called.traced.in_place.values()), program


@every_deployment
def test_a_rank_reads_its_weights_once(name):
    steps, costs = traced(name)
    for program, entry in costs.entries.items():
        arrays = tree_arrays(steps.programs[program].arguments)
        what, rows, tokens = parts(program)
        weights = {
            path: a.nbytes for path, a in arrays.items() if steps.kinds[program][path] == "weights"
        }
        for path, size in weights.items():
            read = entry.cost.read[path]
            if what == "embedding":
                assert read == rows * tokens * MiMoConfig().hidden_size * 2
            elif size > SMALL:
                assert read == size if tokens < CHUNK else size <= read <= 2 * size, (program, path)
        assert entry.weights <= 1.0001 * entry.lower_bound.weights


@every_deployment
def test_filled_slots_are_read_once_at_most_by_each_block_of_queries(name):
    steps, costs = traced(name)
    for program, entry in costs.entries.items():
        arguments, run = steps.programs[program].arguments, sequence_run(steps.programs[program])
        if run is None:
            continue
        _, rows, tokens = parts(program)
        for path in ("cache.k_ZKQ", "cache.v_ZKC"):
            token = tree_arrays(arguments)[path][0].nbytes
            once, blocks = rows * run.kv_length * token, -(-tokens // QUERY_BLOCK)
            assert once <= entry.cost.read[path] <= blocks * once, program
            assert entry.cost.written[path] == rows * tokens * token, program


@every_deployment
def test_a_copy_reads_and_writes_its_tokens_alone(name):
    """A program takes the layers of a kind, and writes what another one read."""
    steps, costs = traced(name)
    copies = [program for program in costs.entries if program.startswith(("take", "put"))]
    assert len(copies) == 4
    for program in copies:
        entry = costs.entries[program]
        arrays = tree_arrays(steps.programs[program].arguments)
        keys = [path for path in arrays if path.startswith("caches.") and "position" not in path]
        moved = entry.cost.read if program.startswith("take") else entry.cost.written
        assert {path: moved[path] for path in keys} == {
            path: COPIED * arrays[path][0].nbytes for path in keys
        }
        assert entry.cost.operations == entry.lower_bound.operations == 0


@every_deployment
def test_a_chunk_computes_at_most_twice_what_its_tokens_need(name):
    """Of programs that steps call with balanced routing: larger buckets are for overflow."""
    _, costs = traced(name)
    for step in costs.steps:
        for program in step.calls:
            entry = costs.entries[program]
            if step.tokens >= CHUNK or "experts" not in program:
                assert entry.cost.operations <= 2 * entry.lower_bound.operations, program


def test_matmuls_are_those_that_xla_counts():
    """XLA counts the scores' softmax and the like too, and every scale of an FP8 weight."""
    steps, costs = traced("32 ranks, bfloat16")
    for program, entry in costs.entries.items():
        if "attention" in program or parts(program)[0] == "experts":
            flops = xla_cost(steps.programs[program].traced.module)["flops"]
            assert 0.9 * flops < entry.cost.operations < flops, program


def test_more_ranks_take_less_time():
    few, many = (traced(name)[1].steps[-1] for name in ("32 ranks, FP8", "64 ranks, 2 rows each"))
    assert few.tokens == many.tokens == 1
    assert 0.5 * few.bound < many.bound < 0.75 * few.bound


def test_ranges_of_layers_read_what_their_layers_read():
    """A decode step of 64 ranks is four programs, with two exchanges a layer."""
    costs, sizes = traced("64 ranks, 2 rows each")[1], {"context": 300, "chunk": 4}
    deployment = replace(DEPLOYMENTS["64 ranks, 2 rows each"], layers_per_program=None, **sizes)
    ranges = step_programs(deployment)
    priced, layer_step = price(ranges), costs.steps[-3]
    assert layer_step[:2] == (1, 256)
    step = next(s for s in priced.steps if s[:2] == layer_step[:2])
    assert list(step.calls.values()) == [1, 1, 1, 1]
    assert total(priced, step, "weights") == pytest.approx(total(costs, layer_step, "weights"))
    assert total(priced, step, "cache") == total(costs, layer_step, "cache")
    assert step.lower_bound == pytest.approx(layer_step.lower_bound)
    assert step.bound < layer_step.bound
    for program in step.calls:
        traced_range = ranges.programs[program].traced
        assert lint_program(traced_range.module) == []
        if "layers" in program:
            caches = {path for path in traced_range.inputs if path.startswith("caches.")}
            assert set(traced_range.in_place.values()) == caches | {"x_ND"}
            assert len(caches) == 3 * 24
            assert len(priced.entries[program].cost.collectives) == 2 * 24


def total(costs, step, field: str) -> int:
    """Return the sum of a field of the entries that a step calls."""
    return sum(count * getattr(costs.entries[name], field) for name, count in step.calls.items())
