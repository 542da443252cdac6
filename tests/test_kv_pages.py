"""kv_pages: memory is taken where a cache is written, and given back without a trace."""

import mmap
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash import MiMoConfig, kv_pages
from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.kv_pages import HUGE_PAGE, empty_layers, give_back
from tests.support.drawn import floats
from tests.support.engine_model import layers_of

MIMO = MiMoConfig().layers
FULL = MIMO[0]
MB = 10**6


def resident() -> int:
    return psutil.Process().memory_info().rss


def filled(rows: int, dtype, *, heads: int = 1, seed: int = 0):
    """Return a layer of one sequence, all of whose slots are written."""
    (spec,) = layers_of(NO_WINDOW, heads=heads, channels=24)
    (layer,) = empty_layers((spec,), sequences=1, max_length=rows, dtype=np.dtype(dtype))
    random = np.random.default_rng(seed)
    for part in layer[:2]:
        part[:] = random.integers(1, 100, part.shape)
    layer.position_Z[:] = np.arange(len(layer.position_Z))
    return layer


@given(st.integers(1, 400), floats, st.sampled_from([1, 3]), st.data())
def test_rows_are_emptied_and_their_neighbours_are_as_before(rows, dtype, heads, data):
    """Rows have 48 to 288 bytes, so that they begin and end anywhere in a page."""
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    layer = filled(rows, dtype, heads=heads)
    before = [part.copy() for part in layer]
    give_back(layer, start, stop)
    for part, expected, empty in zip(layer, before, (0, 0, -1), strict=True):
        expected[start:stop] = empty
        np.testing.assert_array_equal(np.asarray(part), expected)


def test_what_was_given_back_can_be_written():
    layer = filled(400, np.float32)
    give_back(layer, 10, 390)
    layer.k_ZKQ[200] = 7
    assert (layer.k_ZKQ[200] == 7).all()
    assert not layer.k_ZKQ[201:390].any()


def test_memory_is_taken_by_writing_and_falls_when_it_is_given_back():
    """Two sequences of 100 MB: one of them is given back, the other one stays."""
    length, before = 20_000, resident()
    (layer,) = empty_layers((FULL,), sequences=2, max_length=length, dtype=np.dtype(np.float32))
    assert sum(part.nbytes for part in layer[:2]) > 200 * MB
    assert resident() - before < 20 * MB
    for part in layer[:2]:
        part[:] = 3
    assert resident() - before > 190 * MB
    give_back(layer, 0, length)
    assert 90 * MB < resident() - before < 125 * MB
    assert not layer.k_ZKQ[:length].any()
    assert (layer.v_ZKC[length:] == 3).all()


def test_a_few_tokens_of_many_long_sequences_take_little():
    """Pages of 2 MB would take 128 MB for 4 MB of tokens."""
    length, before = 16_384, resident()
    layers = empty_layers((FULL,), sequences=32, max_length=length, dtype=np.dtype(np.float32))
    for part in layers[0][:2]:
        for start in range(0, 32 * length, length):
            part[start : start + 20] = 1
    assert length * 4 * 128 * 4 > HUGE_PAGE
    assert resident() - before < 30 * MB


def test_an_array_larger_than_the_machine_is_made_where_the_system_overcommits():
    """One slot has 2 MB, so that the positions are small."""
    (spec,) = layers_of(NO_WINDOW, heads=64, channels=4096)
    sizes = {"sequences": 1, "max_length": 2 * psutil.virtual_memory().total // (1 << 20)}
    setting, before = Path("/proc/sys/vm/overcommit_memory"), resident()
    if setting.exists() and setting.read_text().strip() == "2":
        with pytest.raises(MemoryError, match="lower the number of sequences"):
            empty_layers((spec,), **sizes, dtype=np.dtype(np.float32))
    else:
        empty_layers((spec,), **sizes, dtype=np.dtype(np.float32))
    assert resident() - before < 20 * MB


@pytest.mark.parametrize("channels", [4096, 1 << 44])
def test_arrays_that_no_system_has_are_refused_in_one_line(channels):
    (spec,) = layers_of(NO_WINDOW, heads=64, channels=channels)
    sizes = {"sequences": 2, "max_length": 1 << 28, "dtype": np.dtype(np.float32)}
    with pytest.raises(MemoryError, match=r"2 sequences of 268435456 tokens have .* refuses: "):
        empty_layers((spec,), **sizes)


@pytest.mark.parametrize(("slots", "advice"), [(100, "MADV_HUGEPAGE"), (700, "MADV_NOHUGEPAGE")])
def test_a_kernel_without_huge_pages_has_none(monkeypatch, slots, advice):
    advised = []

    class Pages(mmap.mmap):
        """Pages of a kernel that refuses any advice."""

        def madvise(self, option, *_):
            """Refuse."""
            advised.append(option)
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(kv_pages.mmap, "mmap", Pages)
    empty_layers((FULL,), sequences=1, max_length=slots, dtype=np.dtype(np.float32))
    assert advised[0] == getattr(mmap, advice)
