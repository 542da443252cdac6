"""The disk's rate: which bytes are read, and that the rate is theirs over the time of reading."""

import pytest

from mimo_v2_flash.expert_store.file_reader import ExpertReadError
from mimo_v2_flash.expert_store.record_layout import PAGE
from mimo_v2_flash.machine import disk_rate as module
from mimo_v2_flash.machine.disk_rate import measure_disk


@pytest.fixture
def files(tmp_path):
    sizes = {"a": 5 * PAGE + 7, "b": 100, "c": 3 * PAGE}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"\1" * size)
    return [tmp_path / name for name in sizes]


@pytest.fixture
def clock(monkeypatch):
    """Let each look at the clock take half a second."""
    times = iter(range(1000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(times) / 2)


def test_whole_pages_of_all_files_are_read(files, clock, monkeypatch):
    monkeypatch.setattr(module, "RECORD", 2 * PAGE)
    rate = measure_disk(files)
    assert rate.measured_bytes == 8 * PAGE
    records = 3 + 2  # 2, 2, 1 pages; 2, 1
    assert rate.bytes_per_second == 8 * PAGE / (records * 0.5)


@pytest.mark.parametrize(("most", "pages"), [(1, 2), (2 * PAGE, 2), (2 * PAGE + 1, 4)])
def test_it_ends_when_it_has_read_enough(files, clock, monkeypatch, most, pages):
    monkeypatch.setattr(module, "RECORD", 2 * PAGE)
    assert measure_disk(files, most=most).measured_bytes == pages * PAGE


def test_a_slow_disk_ends_it_too(files, clock, monkeypatch):
    monkeypatch.setattr(module, "RECORD", PAGE)
    monkeypatch.setattr(module, "SECONDS", 0.9)
    assert measure_disk(files).measured_bytes == 2 * PAGE


def test_nothing_to_read_is_an_error(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty: no bytes to read"):
        measure_disk([tmp_path / "empty"])


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ExpertReadError, match="folder: Is a directory"):
        measure_disk([tmp_path / "folder"])
