"""Portable HLO: top-k becomes a sort with the same result, ties included."""

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash.kernels import ops

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytest.importorskip("jax")
pytestmark = pytest.mark.nkipy

SCORES = np.random.default_rng(0).integers(-2, 3, (3, 400)).astype(np.float32)  # many ties


def two_top_ks(x):
    value, index = ops.top_k(x, 300)
    again, _ = ops.top_k(np.sum(value, axis=0, keepdims=True), 2)
    return value, index, again


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_top_k_is_numpys_and_the_lowest_index_comes_first(dtype):
    from mimo_v2_flash.execution.xla import XlaBackend

    x = SCORES.astype(dtype)
    outputs = XlaBackend().compile(two_top_ks)(x)
    for actual, expected in zip(outputs, two_top_ks(x), strict=True):
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(np.asarray(actual), expected)


def test_the_program_itself_stays_as_neuronx_cc_gets_it():
    from mimo_v2_flash.execution.portable_hlo import make_portable
    from mimo_v2_flash.execution.tracing import trace

    module = trace(two_top_ks, {"x": SCORES}).module
    before = module.SerializeToString()
    opcodes = {i.opcode for c in make_portable(module).computations for i in c.instructions}
    assert "sort" in opcodes
    assert "custom-call" not in opcodes
    assert module.SerializeToString() == before


def test_another_custom_call_is_refused():
    from mimo_v2_flash.execution.portable_hlo import make_portable
    from mimo_v2_flash.execution.tracing import trace

    module = trace(two_top_ks, {"x": SCORES}).module
    for computation in module.computations:
        for instruction in computation.instructions:
            if instruction.opcode == "custom-call":
                instruction.custom_call_target = "AwsNeuronGelu"
    with pytest.raises(ValueError, match="XLA has no custom call AwsNeuronGelu"):
        make_portable(module)
