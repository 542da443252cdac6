"""Tests of write_all when pwrite writes a few bytes at a time, and of sha256_of."""

import hashlib
import os

import pytest

from mimo_v2_flash.convert.store import sha256_of, write_all


@pytest.mark.parametrize("most", [1, 3, 100])
def test_all_bytes_are_written_where_they_belong(tmp_path, monkeypatch, most):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, begin: real(file, data[:most], begin))
    path = tmp_path / "file"
    path.write_bytes(b"." * 20)
    with path.open("r+b", buffering=0) as opened:
        write_all(opened.fileno(), b"0123456789", 7)
    assert path.read_bytes() == b".......0123456789..."


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_a_checksum_is_that_of_all_bytes(tmp_path, size):
    path, data = tmp_path / "file", bytes(range(251)) * (size // 251 + 1)
    path.write_bytes(data[:size])
    assert sha256_of(path) == hashlib.sha256(data[:size]).hexdigest()
