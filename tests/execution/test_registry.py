"""Backends by name; an error about a missing package says how to install it."""

import importlib

import pytest

from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.execution.registry import BACKENDS, backend_name, get_backend


def without(package: str, monkeypatch) -> None:
    """Let an import within the package fail, as if `package` were not installed."""

    def fail(*_):
        raise ModuleNotFoundError(f"No module named {package!r}", name=f"{package}.part")

    monkeypatch.setattr(importlib, "import_module", fail)


def test_numpy_is_always_there():
    assert isinstance(get_backend("numpy"), NumpyBackend)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=f"backend 'tpu': allowed is {' or '.join(BACKENDS)}"):
        get_backend("tpu")


@pytest.mark.parametrize(
    ("missing", "advice"),
    [("jax", r"pip install 'mimo-v2-flash\[xla\]'"), ("nkipy", "github.com/aws-neuron/nkipy")],
)
def test_what_is_missing_is_named_with_its_instructions(missing, advice, monkeypatch):
    without(missing, monkeypatch)
    with pytest.raises(ImportError, match=f"backend xla needs {missing}: .*{advice}"):
        get_backend("xla")


def test_another_import_error_is_passed_on(monkeypatch):
    without("numpy", monkeypatch)
    with pytest.raises(ModuleNotFoundError, match="No module named 'numpy'"):
        get_backend("xla")


def test_an_open_backend_has_the_name_of_its_class_or_of_its_execution_mode():
    def opened(name: str, execution_mode: str) -> object:
        return type(name, (), {"execution_mode": execution_mode})()

    for name, class_name in BACKENDS.items():
        assert backend_name(name) == backend_name(opened(class_name, "static")) == name
    assert backend_name(opened("Another", "eager")) == "numpy"
    assert backend_name(opened("Another", "static")) == "xla"
