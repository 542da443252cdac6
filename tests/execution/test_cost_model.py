"""The cost model on small programs, against counts by hand and against XLA's own analysis."""

import re

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.kernels import ops
from mimo_v2_flash.parallel.device_group import DeviceGroup
from mimo_v2_flash.quantization.fp8 import BlockScaled
from tests.support.traced_costs import costed, traced, xla_cost

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytestmark = pytest.mark.nkipy

from mimo_v2_flash.execution.cost_model import analyze_cost  # noqa: E402

few = settings(deadline=None, max_examples=25)
sizes = st.integers(1, 40)
X, W = np.ones((4, 8), np.float32), np.ones((16, 8), np.float32)
WORLD = DeviceGroup(((0, 1), (2, 3)))


def times(x, w):
    return ops.matmul(x, w)


def twice(x, w):
    return ops.matmul(x, w) + ops.matmul(np.exp(x), w)


def quarter(x, w):
    return ops.matmul(x, np.transpose(np.reshape(w[:4], (8, 4)), (1, 0)))


def rows_of(x, w):
    return np.take(w, x, axis=0)


def scaled(x, w, w_scale):
    part = w.astype(np.float32) * np.reshape(w_scale, (16, 1))
    return ops.matmul(x, part) + ops.matmul(-x, part)


def written(x, cache, row):
    ops.put_rows(cache, row, x)
    return np.sum(cache[:3] * cache[:3], axis=0, keepdims=True)


def normed(x, w):
    return ops.matmul(x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True)) * w, np.exp(x))


def normed_for_two(x, w):
    y = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True)) * w
    return ops.matmul(y, np.exp(x)) + ops.matmul(y, x)


def updated_copy(x, cache, row):
    copy = cache.astype(np.float32)
    ops.put_rows(copy, row, x)
    return copy


def sliced(x):
    return np.exp(x)[:, :3]


def all_collectives(x):
    gathered = WORLD.all_gather(x)
    return WORLD.all_reduce(WORLD.reduce_scatter(gathered)), WORLD.all_to_all(gathered)


@pytest.mark.parametrize("batch", [(), (3,)])
@few
@given(sizes, sizes, sizes)
def test_a_matmul_costs_what_xla_says(batch, N, depth, columns):
    x, w = np.ones((*batch, N, depth), np.float32), np.ones((*batch, columns, depth), np.float32)
    program, cost = traced(times, x=x, w=w), costed(times, x=x, w=w)
    y, xla = x.size // depth * columns, xla_cost(program.module)
    assert cost.operations == 2 * y * depth == xla["flops"]
    assert cost.read == {"x": x.nbytes, "w": w.nbytes}
    assert cost.returned == 4 * y
    copied = 2 * cost.returned  # nkipy's last instruction, which XLA counts
    assert sum(cost.read.values()) + cost.returned + copied == xla["bytes accessed"]


def test_a_weight_that_is_read_twice_counts_twice():
    cost = costed(twice, x=X, w=W)
    assert cost.read == {"x": 2 * X.nbytes, "w": 2 * W.nbytes}
    assert cost.operations == 2 * costed(times, x=X, w=W).operations
    assert len(cost.temporaries) == 2
    assert cost.largest_temporary == 4 * 16 * 4


def test_a_matmul_that_is_too_large_is_noticed():
    experts = costed(times, x=np.ones((32 * 4, 8), np.float32), w=W)
    assert experts.operations == 32 * costed(times, x=X, w=W).operations


def test_views_cost_nothing_and_only_the_visible_part_is_read():
    cost = costed(quarter, x=X, w=W)
    assert cost.read == {"x": X.nbytes, "w": W.nbytes // 4}
    assert cost.temporaries == ()


def test_a_gather_reads_as_much_as_it_returns():
    index = np.zeros(50, np.int32)
    cost = costed(rows_of, x=index, w=W)
    assert cost.read == {"x": index.nbytes, "w": 50 * 8 * 4}


def test_what_is_computed_of_weights_alone_is_never_stored():
    w, w_scale = W.astype(ml_dtypes.bfloat16), np.ones(16, np.float32)
    cost = costed(scaled, x=X, w=w, w_scale=w_scale)
    assert cost.read == {"x": 2 * X.nbytes, "w": 2 * w.nbytes, "w_scale": 2 * w_scale.nbytes}
    assert cost.largest_temporary == 4 * 16 * 4


def test_an_update_of_an_input_writes_the_new_elements():
    cache = np.ones((100, 8), np.float32)
    cost = costed(written, x=X, cache=cache, row=np.arange(4, dtype=np.int32))
    assert cost.written == {"cache": X.nbytes}
    assert cost.read == {"x": X.nbytes, "cache": 3 * 8 * 4, "row": 16}
    assert cost.returned == 8 * 4
    assert cost.largest_temporary == 0


def test_a_chain_of_elements_reads_its_operands_once():
    w = np.ones(8, np.float32)
    cost = costed(normed, x=X, w=w)
    assert cost.read["w"] == w.nbytes
    assert {temporary.size for temporary in cost.temporaries} == {4 * 4}


def test_what_is_computed_of_several_is_computed_once():
    w = np.ones(8, np.float32)
    assert costed(normed_for_two, x=X, w=w).read["w"] == w.nbytes


def test_a_write_into_a_copy_is_no_write_into_the_input():
    cache = np.ones((100, 8), ml_dtypes.bfloat16)
    cost = costed(updated_copy, x=X, cache=cache, row=np.arange(4, dtype=np.int32))
    assert cost.written == {}
    assert cost.returned == 100 * 8 * 4


def test_what_is_returned_is_read():
    assert costed(sliced, x=X).read == {"x": 4 * 3 * 4}


def test_collectives_send_all_but_the_ranks_own_part():
    cost = costed(all_collectives, x=X)
    sent = [(c.kind, c.ranks, c.sent) for c in cost.collectives]
    assert sorted(sent) == [
        ("all-gather", 2, X.nbytes),
        ("all-reduce", 2, X.nbytes),
        ("all-to-all", 2, X.nbytes),
        ("reduce-scatter", 2, X.nbytes),
    ]


@pytest.mark.parametrize("shape", [(128, 256), (300, 128)])
def test_every_byte_of_an_fp8_weight_is_read_once(shape):
    grid = -(-shape[0] // 128), shape[1] // 128
    code = np.zeros(shape, ml_dtypes.float8_e4m3)
    w = BlockScaled(code, np.ones(grid, np.float32))
    x = np.ones((3, shape[1]), np.float32)
    cost = costed(times, x=x, w=w)
    assert cost.read["w.code"] == code.nbytes
    assert cost.read["w.scale"] == w.scale.nbytes
    assert cost.operations == 2 * 3 * code.size


def test_a_program_with_a_loop_is_refused():
    program = traced(times, x=X, w=W)
    program.module.computations[-1].instructions[-2].opcode = "while"
    with pytest.raises(ValueError, match=re.escape("no cost model for while")):
        analyze_cost(program.module, program.inputs, set())


def test_all_instructions_are_counted():
    program = traced(twice, x=X, w=W)
    count = sum(len(part.instructions) for part in program.module.computations)
    assert costed(twice, x=X, w=W).instructions == count
