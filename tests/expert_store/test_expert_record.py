"""Expert records: the arrays of a record in a buffer are those of the file, in every format."""

import numpy as np
import pytest

from mimo_v2_flash.checkpoint.params import DenseWeights, ExpertWeights
from mimo_v2_flash.expert_store.expert_record import ExpertRecord
from mimo_v2_flash.expert_store.file_reader import FileReader, new_buffer
from mimo_v2_flash.quantization import QuantizedTensor
from mimo_v2_flash.quantization.compute import ActivationQuantizedWeight
from mimo_v2_flash.quantization.registry import FORMATS
from tests.support.chosen_experts import random_experts
from tests.support.mapped_experts import mapped_experts


def read(record: ExpertRecord) -> DenseWeights:
    buffer = new_buffer(record.layout.nbytes)
    sizes = {region.file: region.file_size for _, region in record.layout.places}
    FileReader(sizes).read([(record.layout, buffer)])
    return record.weights(buffer)


def arrays(weight):
    is_stored = isinstance(weight, QuantizedTensor)
    return list(weight.stored_arrays().values()) if is_stored else [weight]


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_every_format_is_held_as_it_is_stored(tmp_path, form):
    w_OI = np.random.default_rng(0).standard_normal((256, 256), np.float32)
    weight = FORMATS[form].quantize(w_OI)
    (mapped,) = mapped_experts(tmp_path / "x.bin", ExpertWeights.of([[weight] * 3]))
    held = read(ExpertRecord.of("x", mapped))
    for each in held:
        assert type(each) is type(weight)
        np.testing.assert_array_equal(each.dequantize(), weight.dequantize())
        for array, expected in zip(arrays(each), arrays(weight), strict=True):
            assert array.dtype == expected.dtype
            assert array.tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_plain_arrays_are_held_with_their_rounding(tmp_path, kind):
    experts = random_experts(np.random.default_rng(0), [kind], D=40, F=24)
    (mapped,) = mapped_experts(tmp_path / "x.bin", experts)
    rounding = DenseWeights(*(ActivationQuantizedWeight(w, "bfloat16") for w in mapped))
    for each, expected in zip(read(ExpertRecord.of("x", rounding)), experts[0], strict=True):
        assert each.compute == "bfloat16"
        np.testing.assert_array_equal(each.weight, expected)


def test_a_record_has_the_alignment_of_its_file(tmp_path):
    experts = random_experts(np.random.default_rng(0), ["float8"], D=40, F=24)
    (mapped,) = mapped_experts(tmp_path / "x.bin", experts)
    for each, expected in zip(read(ExpertRecord.of("x", mapped)), mapped, strict=True):
        for array, other in zip(arrays(each), arrays(expected), strict=True):
            assert (array.ctypes.data - other.ctypes.data) % 4096 == 0
