"""Tests of lay_out: safetensors files of the requested size at most."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import deserialize

from mimo_v2_flash.checkpoint import param_specs
from mimo_v2_flash.checkpoint.safetensors_file import DTYPES
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.layout import LARGEST_FILE, Layout, lay_out
from mimo_v2_flash.convert.plan import OutputTensor
from mimo_v2_flash.quantization.fp8_projections import SCALE

METADATA = {"format": "mimo-v2-flash", "source": '"a \\"quoted\\" folder, ä"'}
UNLIMITED = 1 << 40


@st.composite
def several_outputs(draw) -> list[OutputTensor]:
    """Draw tensors of every dtype, from one element on."""
    shapes = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)
    kinds = draw(st.lists(st.tuples(st.sampled_from(list(DTYPES)), shapes), min_size=1))
    return [OutputTensor(f"w.{number}", *kind) for number, kind in enumerate(kinds)]


def nbytes(output: OutputTensor) -> int:
    return int(np.prod(output.shape)) * DTYPES[output.dtype].itemsize


def filled(layout: Layout, outputs: list[OutputTensor]) -> dict[str, bytes]:
    """Return the files, where every byte of tensor n is n."""
    files = {file: bytearray(size) for file, size in layout.sizes.items()}
    for file, header in layout.headers.items():
        files[file][: len(header)] = header
    for number, output in enumerate(outputs):
        file, begin = layout.offsets[0, output.name]
        files[file][begin : begin + nbytes(output)] = bytes([number]) * nbytes(output)
    return {file: bytes(data) for file, data in files.items()}


@given(several_outputs(), st.sampled_from([1, 50, 300, UNLIMITED]))
def test_the_library_reads_every_tensor_where_it_was_put(outputs, largest):
    entries = {}
    for data in filled(lay_out(outputs, METADATA, largest), outputs).values():
        entries |= dict(deserialize(data))  # refuses gaps and overlaps
    assert entries.keys() == {output.name for output in outputs}
    for number, output in enumerate(outputs):
        entry = entries[output.name]
        assert (entry["dtype"], tuple(entry["shape"])) == output[1:3]
        assert set(entry["data"]) == {number}


@given(several_outputs(), st.sampled_from([1, 50, 300, UNLIMITED]))
def test_a_file_holds_what_fits_in_the_order_given(outputs, largest):
    layout = lay_out(outputs, METADATA, largest)
    for file, size in layout.sizes.items():
        held = [output for output in outputs if layout.offsets[0, output.name].file == file]
        assert size - len(layout.headers[file]) == sum(map(nbytes, held))
        assert sum(map(nbytes, held)) <= largest or len(held) == 1
    files = [layout.offsets[0, output.name].file for output in outputs]
    assert files == sorted(files)


@given(several_outputs())
def test_tensors_lie_at_multiples_of_their_elements(outputs):
    layout = lay_out(outputs, METADATA, UNLIMITED)
    for output in outputs:
        assert layout.offsets[0, output.name].begin % DTYPES[output.dtype].itemsize == 0


def test_one_file_has_no_number_and_several_have():
    outputs = [OutputTensor(f"w.{number}", "F32", (10,)) for number in range(3)]
    assert list(lay_out(outputs, {}, 120).sizes) == ["mimo_weights.safetensors"]
    assert list(lay_out(outputs, {}, 119).sizes) == [
        "mimo_weights-00001-of-00002.safetensors",
        "mimo_weights-00002-of-00002.safetensors",
    ]


@pytest.mark.parametrize("dtype", ["F8_E4M3", "BF16"])
def test_files_of_the_real_model_are_at_most_5_gb(dtype):
    outputs = []
    for name, shape in param_specs.all_params(MiMoConfig()):
        outputs.append(OutputTensor(name, dtype, shape))
        if dtype == "F8_E4M3" and len(shape) == 2:
            grid = tuple(-(-length // 128) for length in shape)
            outputs.append(OutputTensor(name + SCALE, "F32", grid))
    sizes = lay_out(outputs, METADATA, LARGEST_FILE).sizes.values()
    assert max(sizes) <= 5_000_000_000
    assert sum(sizes) > 300_000_000_000
    assert len(sizes) <= sum(sizes) // 4_700_000_000
