"""Tests of lay_out: safetensors files of the requested size at most."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import deserialize

from mimo_v2_flash.checkpoint import param_specs
from mimo_v2_flash.checkpoint.safetensors_file import DTYPES, FileLayout, TensorInfo, lay_out
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.store import LARGEST_FILE
from mimo_v2_flash.quantization.fp8_projections import SCALE

METADATA = {"format": "mimo-v2-flash", "source": '"a \\"quoted\\" folder, ä"'}
UNLIMITED = 1 << 40


@st.composite
def several_tensors(draw) -> dict[str, TensorInfo]:
    """Draw tensors of every dtype, from one element on."""
    shapes = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)
    kinds = draw(st.lists(st.tuples(st.sampled_from(list(DTYPES)), shapes), min_size=1))
    return {f"w.{number}": TensorInfo.new(*kind) for number, kind in enumerate(kinds)}


def filled(layout: FileLayout, tensors: dict[str, TensorInfo]) -> bytes:
    """Return the file, where every byte of tensor n is n."""
    file = bytearray(layout.size)
    file[: len(layout.header)] = layout.header
    for number, name in enumerate(tensors):
        if info := layout.tensors.get(name):
            file[info.begin : info.end] = bytes([number]) * tensors[name].nbytes
    assert len(file) == layout.size
    return bytes(file)


@given(several_tensors(), st.sampled_from([1, 50, 300, UNLIMITED]))
def test_the_library_reads_every_tensor_where_it_was_put(tensors, largest):
    entries = {}
    for layout in lay_out("x", tensors, METADATA, largest):
        entries |= dict(deserialize(filled(layout, tensors)))  # refuses gaps and overlaps
    assert entries.keys() == tensors.keys()
    for number, (name, info) in enumerate(tensors.items()):
        entry = entries[name]
        assert (entry["dtype"], tuple(entry["shape"])) == (info.dtype, info.shape)
        assert set(entry["data"]) == {number}


@given(several_tensors(), st.sampled_from([1, 50, 300, UNLIMITED]))
def test_a_file_holds_what_fits_in_the_order_of_the_tensors(tensors, largest):
    layouts = list(lay_out("x", tensors, METADATA, largest))
    for layout in layouts:
        nbytes = sum(tensors[name].nbytes for name in layout.tensors)
        assert layout.size - len(layout.header) == nbytes
        assert nbytes <= largest or len(layout.tensors) == 1
        assert {info.file for info in layout.tensors.values()} == {layout.name}
    files = {name: layout.name for layout in layouts for name in layout.tensors}
    assert [files[name] for name in tensors] == sorted(files.values())


@given(several_tensors())
def test_tensors_lie_at_multiples_of_their_elements(tensors):
    (layout,) = lay_out("x", tensors, METADATA, UNLIMITED)
    for info in layout.tensors.values():
        assert info.begin % DTYPES[info.dtype].itemsize == 0


def test_one_file_has_no_number_and_several_have():
    tensors = {f"w.{number}": TensorInfo.new("F32", (10,)) for number in range(3)}
    assert [file.name for file in lay_out("x", tensors, {}, 120)] == ["x.safetensors"]
    assert [file.name for file in lay_out("x", tensors, {}, 119)] == [
        "x-00001-of-00002.safetensors",
        "x-00002-of-00002.safetensors",
    ]


@pytest.mark.parametrize("dtype", ["F8_E4M3", "BF16"])
def test_files_of_the_real_model_are_at_most_5_gb(dtype):
    tensors = {}
    for name, shape in param_specs.all_params(MiMoConfig()):
        tensors[name] = TensorInfo.new(dtype, shape)
        if dtype == "F8_E4M3" and len(shape) == 2:
            grid = tuple(-(-length // 128) for length in shape)
            tensors[name + SCALE] = TensorInfo.new("F32", grid)
    sizes = [file.size for file in lay_out("x", tensors, METADATA, LARGEST_FILE)]
    assert max(sizes) <= 5_000_000_000
    assert sum(sizes) > 300_000_000_000
    assert len(sizes) <= sum(sizes) // 4_700_000_000
