"""File reader: the bytes of a file by direct reads or usual ones; errors name the file."""

import errno
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.expert_store import file_reader as module
from mimo_v2_flash.expert_store.file_reader import ExpertReadError, FileReader, new_buffer
from mimo_v2_flash.expert_store.record_layout import PAGE, FileRegion, lay_out_record


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("reader") / "model.safetensors"
    path.write_bytes(np.random.default_rng(0).bytes(600_001))
    return path


def regions(file, *ranges):
    size = file.stat().st_size
    return [FileRegion(str(file), size, begin, np.uint8, (n,)) for begin, n in ranges]


def read(file, *ranges):
    layout = lay_out_record(regions(file, *ranges))
    buffer = new_buffer(layout.nbytes)
    FileReader({str(file): file.stat().st_size}).read([(layout, buffer)])
    return [array.tobytes() for array in layout.arrays(buffer)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 600_000), st.integers(1, 400_000)), min_size=1, max_size=4),
    st.sampled_from([PAGE, 5 * PAGE, 1 << 22]),
    st.sampled_from([0, module.DIRECT]),
)
def test_it_reads_the_bytes_of_the_file(file, drawn, piece, flag):
    ranges = [(begin, min(size, 600_001 - begin)) for begin, size in drawn]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", piece)
        patch.setattr(module, "DIRECT", flag)
        content = file.read_bytes()
        assert read(file, *ranges) == [content[begin : begin + n] for begin, n in ranges]


def test_a_file_system_without_direct_reads_is_read_as_usual(file, monkeypatch):
    opened, system = [], os.open

    def refuse(path, flags, *rest):
        opened.append(flags)
        if flags & module.DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return system(path, flags, *rest)

    monkeypatch.setattr(module, "DIRECT", 0o40000)
    monkeypatch.setattr(os, "open", refuse)
    assert read(file, (10, 20)) == [file.read_bytes()[10:30]]
    assert [bool(flags & 0o40000) for flags in opened] == [True, False]


def test_a_file_system_that_refuses_direct_reads_later_is_read_as_usual(file, monkeypatch):
    opened, read_system, refused = os.open, os.preadv, []

    def refuse_once(*arguments):
        if not refused:
            refused.append(1)
            raise OSError(errno.EINVAL, "Invalid argument")
        return read_system(*arguments)

    monkeypatch.setattr(module, "DIRECT", 0o40000)
    monkeypatch.setattr(os, "open", lambda path, flags: opened(path, flags & ~0o40000))
    monkeypatch.setattr(os, "preadv", refuse_once)
    reader = FileReader({str(file): file.stat().st_size})
    assert refused
    assert not reader.is_direct
    assert read(file, (10, 20)) == [file.read_bytes()[10:30]]


@pytest.mark.parametrize("flag", [0, module.DIRECT])
def test_short_reads_go_on(file, monkeypatch, flag):
    system = os.preadv

    def short(descriptor, buffers, offset):
        return system(descriptor, [buffers[0][:PAGE]], offset)

    monkeypatch.setattr(module, "DIRECT", flag)
    monkeypatch.setattr(os, "preadv", short)
    assert read(file, (4000, 100_000)) == [file.read_bytes()[4000:104_000]]


@pytest.mark.parametrize("size", [100, 500_000])
@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_an_error_of_the_disk_names_the_file(file, monkeypatch, code, size):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(ExpertReadError, match=rf"model\.safetensors: {os.strerror(code)}"):
        read(file, (0, size))


@pytest.mark.parametrize("left", [0, 100, 4096, 300_000])
def test_a_file_that_was_cut_short_is_named(tmp_path, left):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(400_000))
    (region,) = regions(path, (1000, 390_000))
    layout, reader = lay_out_record([region]), FileReader({str(path): 400_000})
    os.truncate(path, left)
    with pytest.raises(ExpertReadError, match=rf"safetensors: ends at byte {left:,}, expected"):
        reader.read([(layout, new_buffer(layout.nbytes))])


def test_files_are_closed_with_the_reader(file):
    reader = FileReader({str(file): file.stat().st_size})
    descriptors = list(reader._descriptors.values())
    del reader
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_a_buffer_begins_with_a_page():
    for nbytes in (0, 1, 5000, 1 << 23):
        buffer = new_buffer(nbytes)
        assert (buffer.size, buffer.ctypes.data % PAGE) == (nbytes, 0)
        buffer[:] = 7
