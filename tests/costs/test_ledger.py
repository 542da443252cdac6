"""A cost ledger adds up its programs, and shows a program that does more than the lower bound."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash.costs import Workload, devices
from mimo_v2_flash.execution.pytree import tree_arrays
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.config_files import SMALL

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytestmark = pytest.mark.nkipy

from mimo_v2_flash.costs.ledger import ledger, price  # noqa: E402
from mimo_v2_flash.costs.step_programs import (  # noqa: E402
    Deployment,
    StepCalls,
    StepPrograms,
    step_programs,
)
from mimo_v2_flash.execution.program_recorder import ProgramRecorder  # noqa: E402
from mimo_v2_flash.kernels import ops  # noqa: E402

CONFIG = replace(SMALL, num_key_value_heads=2, swa_num_key_value_heads=4, intermediate_size=256)
DEPLOYMENT = Deployment(CONFIG, ParallelConfig(4, 2, 2), 2, 256, 16)
RECORDED = step_programs(DEPLOYMENT)
LEDGER = price(RECORDED)


def test_all_programs_of_a_step_read_every_weight_of_the_rank_but_the_embedding():
    workload = Workload(2, 256, 16, "fp8", ml_dtypes.bfloat16)
    held = devices(CONFIG, DEPLOYMENT.plan, workload)[0].weights
    expected = sum(held.values()) - held["embedding"]
    for step in LEDGER.steps:
        read = {name: LEDGER.entries[name].lower_bound.weights for name in step.calls}
        rows = sum(size for name, size in read.items() if "embedding" in name)
        assert rows == step.tokens * CONFIG.hidden_size * 2
        assert sum(read[name] * count for name, count in step.calls.items()) - rows == expected


def test_kinds_are_told_apart():
    for name, program in RECORDED.programs.items():
        for path, kind in RECORDED.kinds[name].items():
            expected = "cache" if path.startswith("cache") else "activations"
            if path.startswith(("weight", "embedding", "norm_D", "w_")):
                expected = "weights"
            assert kind == expected, path
        assert set(RECORDED.kinds[name]) == set(tree_arrays(program.arguments))


def test_heads_and_experts_are_for_the_tokens_that_they_see():
    """Each rank has one row; two ranks split its heads, and each dispatches half of its tokens."""
    hidden, vocabulary = CONFIG.hidden_size, CONFIG.vocab_size // 2
    expert = 3 * hidden * CONFIG.moe_intermediate_size
    chosen = CONFIG.num_experts_per_tok * expert + CONFIG.n_routed_experts * hidden
    heads = [name for name in LEDGER.entries if name.startswith("head")]
    assert len(heads) == 8
    for name in heads:
        seen = int(name.split(", ")[1].split(" of ")[0])
        assert LEDGER.entries[name].lower_bound.operations == 2 * seen * hidden * vocabulary
    long = Deployment(CONFIG, ParallelConfig(4, 2, 2), 2, 512, 512)
    moe_entries = {
        name: entry for name, entry in ledger(long).entries.items() if name.startswith("experts")
    }
    assert len(moe_entries) > 1
    for entry in moe_entries.values():
        assert entry.lower_bound.operations == 2 * (512 // 2) * chosen


def test_a_step_is_the_sum_of_its_programs():
    for step in LEDGER.steps:
        seconds = [(LEDGER.entries[name].seconds, times) for name, times in step.calls.items()]
        assert step.bound == pytest.approx(sum(one.bound * times for one, times in seconds))
        assert step.with_operations > step.bound > step.lower_bound > 0


def test_bytes_are_those_of_the_cost():
    for entry in LEDGER.entries.values():
        cost = entry.cost
        moved = sum(cost.read.values()) + sum(cost.written.values()) + cost.returned
        assert entry.weights + entry.cache + entry.activations == moved
        assert entry.sent == sum(collective.sent for collective in cost.collectives)
        assert entry.weights >= entry.lower_bound.weights


def test_a_ledger_is_that_of_its_deployment():
    assert ledger(DEPLOYMENT) == LEDGER


def reads_twice(x_ND, w_DD):
    return ops.matmul(x_ND, w_DD) + ops.matmul(x_ND + np.float32(1), w_DD)


def computes_for_all(x_ND, w_DD):
    many = np.concatenate([x_ND] * 32, axis=0)
    return ops.matmul(many, w_DD)


@pytest.mark.parametrize(
    ("function", "weights", "operations"), [(reads_twice, 2, 2), (computes_for_all, 1, 32)]
)
def test_faults_are_multiples_of_the_least(function, weights, operations):
    recorder = ProgramRecorder()
    x_ND, w_DD = np.ones((3, 8), np.float32), np.ones((6, 8), np.float32)
    recorder.compile(function)(x_ND, w_DD)
    kinds = {"x_ND": "activations", "w_DD": "weights"}
    recorded = StepPrograms(
        {"it": recorder.programs[0]}, (StepCalls(3, 0, {"it": 2}),), {"it": kinds}
    )
    entry = price(recorded).entries["it"]
    assert entry.weights == weights * entry.lower_bound.weights == weights * w_DD.nbytes
    assert entry.cost.operations == operations * entry.lower_bound.operations
