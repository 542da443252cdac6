"""Tests of loading: modules of compiled loops, or None and one warning if numba cannot be used."""

import sys
import warnings

import pytest
from numba.core.errors import TypingError

from mimo_v2_flash.cpu import fp8, loading
from mimo_v2_flash.cpu.locked_cache import locked_cache


@pytest.fixture
def compiled_module(monkeypatch):
    """Return the function as in a new process."""
    monkeypatch.setattr(loading, "_failures", [])
    return locked_cache(loading.compiled_module.__wrapped__)


def test_a_module_is_loaded_by_its_name():
    assert loading.compiled_module("fp8") is fp8


def test_without_numba_there_is_none(monkeypatch, compiled_module):
    for name in [name for name in sys.modules if name.startswith("mimo_v2_flash.cpu.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.warns(RuntimeWarning, match=r"^numba cannot be used \(ModuleNotFoundError: "):
        assert compiled_module("fp8") is None


@pytest.mark.parametrize(
    "failure",
    [
        ImportError("Numba needs NumPy 2.4 or less"),
        OSError("Could not find/load shared object file: libllvmlite.so"),
        RuntimeError("cannot cache function '_total': no locator available"),
        TypingError("Failed in nopython mode pipeline\nNo conversion"),
        SystemError("a module of another Python"),
        AttributeError("numba.core"),
    ],
)
def test_whatever_fails_there_is_one_warning_and_no_module(monkeypatch, compiled_module, failure):
    def fail(*_):
        raise failure

    monkeypatch.setattr(loading.importlib, "import_module", fail)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        modules = [compiled_module(name) for name in ("matmul", "fp8", "floats", "fp8")]
    assert modules == [None] * 4
    (warning,) = caught
    assert type(failure).__name__ in str(warning.message)
    assert str(failure).split("\n")[-1] in str(warning.message)
    assert "\n" not in str(warning.message)


def test_an_interrupt_is_no_failure(monkeypatch, compiled_module):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loading.importlib, "import_module", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compiled_module("fp8")
