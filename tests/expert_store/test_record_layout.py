"""Record layouts: where arrays lie in mapped files, and whole pages that hold all of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.expert_store.record_layout import (
    PAGE,
    FileRegion,
    find_region,
    lay_out_record,
)

regions = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 9 * PAGE), st.integers(1, 3 * PAGE)),
    min_size=1,
    max_size=6,
    unique_by=lambda region: region[:2],
)


@given(regions)
def test_every_array_is_in_the_buffer_at_the_offset_of_its_file(drawn):
    files = {name: np.random.default_rng(0).bytes(16 * PAGE) for name in "ab"}
    drawn_regions = [
        FileRegion(file, 16 * PAGE, begin, np.uint8, (size,)) for file, begin, size in drawn
    ]
    layout = lay_out_record(drawn_regions)
    buffer = np.zeros(layout.nbytes, np.uint8)
    for segment in layout.segments:
        assert segment.begin % PAGE == segment.end % PAGE == segment.offset % PAGE == 0
        part = np.frombuffer(files[segment.file], np.uint8)[segment.begin : segment.needed]
        buffer[segment.offset : segment.offset + len(part)] = part
    for array, (file, begin, size) in zip(layout.arrays(buffer), drawn, strict=True):
        assert array.tobytes() == files[file][begin : begin + size]
    spans = [(s.file, s.begin, s.end) for s in layout.segments]
    for file, begin, end in spans:  # pages are read once
        assert not any(f == file and begin < b <= end for f, b, _ in spans)


def test_neighbours_are_one_read():
    near = [FileRegion("a", 0, begin, np.uint8, (1000,)) for begin in (5000, 6000, 9000)]
    assert [s[1:4] for s in lay_out_record(near).segments] == [(4096, 12288, 10000)]
    far = [FileRegion("a", 0, begin, np.uint8, (1000,)) for begin in (5000, 13000)]
    assert len(lay_out_record(far).segments) == 2


def test_a_view_of_a_map_is_found(tmp_path):
    file = tmp_path / "x"
    content = np.arange(4000, dtype=np.float32)
    content.tofile(file)
    views = [np.memmap(file, np.uint8, mode="r"), np.memmap(file, np.uint8, mode="r", offset=1000)]
    for start, memory in zip((0, 1000), views, strict=True):
        for data in (memory, np.asarray(memory)):
            array = data[800:1600].view(np.float32).reshape(10, 20)
            region = FileRegion(str(file), 16000, start + 800, np.dtype(np.float32), (10, 20))
            assert find_region(array) == region
            assert find_region(array[3]) == region._replace(begin=start + 800 + 240, shape=(20,))
            assert find_region(array[:, 3]) is None
            assert find_region(array.copy()) is None
    assert find_region(content) is None
    assert find_region(np.frombuffer(bytes(8), np.uint8)) is None
