"""Plans that quantize: the same weights from both layouts of q, k and v, with a table of them."""

from dataclasses import replace

import numpy as np
import pytest

from mimo_v2_flash.checkpoint import param_specs
from mimo_v2_flash.checkpoint.isq_table import IsqRequest
from mimo_v2_flash.checkpoint.safetensors_file import DTYPES
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.isq_plan import plan_isq
from mimo_v2_flash.quantization import get_format
from tests.support.disk import Disk, made
from tests.support.quantised import SMALL, model_tensors

CONFIG = replace(SMALL, hidden_size=160, intermediate_size=288, moe_intermediate_size=64)
NAME_OF = {dtype: name for name, dtype in DTYPES.items()}


@pytest.mark.parametrize("fused", [False, True], ids=["split", "fused"])
def test_a_weight_is_quantized_from_its_exact_values(fused):
    tensors, truth = model_tensors(CONFIG, fused=fused)
    disk = Disk()
    infos = {name: disk.add(array, NAME_OF[array.dtype]) for name, array in tensors.items()}
    params = list(param_specs.all_params(CONFIG, fused=fused))
    encoding, form = Encoding("fp8", "cpu", IsqRequest.of("8")), get_format("q8_0")
    result = made(disk, plan_isq(CONFIG, params, infos, encoding), encoding)
    assert {row.name for row in encoding.table} == truth.keys()
    for row in encoding.table:
        assert row.shape == truth[row.name].shape
        if row.form:
            array = result.arrays[form.tensor_names(row.name)["data"]]
            np.testing.assert_array_equal(array, form.quantize(truth[row.name]).data)
            assert row.nbytes == array.nbytes
        else:
            np.testing.assert_array_equal(result.arrays[row.name], truth[row.name])
            assert row.rule == "stays precise"


@pytest.mark.parametrize(
    ("dtype", "target", "message"),
    [
        ("bfloat16", "cpu", "dtype is 'bfloat16', allowed with isq is fp8"),
        ("fp8", "trainium2", "target is 'trainium2', allowed with isq is cpu"),
    ],
)
def test_another_encoding_beside_it_is_refused(dtype, target, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Encoding(dtype, target, IsqRequest.of("8"))
