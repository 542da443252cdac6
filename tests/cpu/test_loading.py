"""Tests of loading: modules of compiled loops, or None without numba."""

import sys

from mimo_v2_flash.cpu import fp8, loading


def test_a_module_is_loaded_by_its_name():
    assert loading.compiled_module("fp8") is fp8


def test_without_numba_there_is_none(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("mimo_v2_flash.cpu.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    assert loading.compiled_module.__wrapped__("fp8") is None
