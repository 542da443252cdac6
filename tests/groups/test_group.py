"""Group: everything that calls itself a group offers exactly what kernels may ask of one."""

import importlib
import inspect
import pkgutil

import pytest

from mimo_v2_flash import groups
from mimo_v2_flash.groups import Group

EXCHANGES = [name for name in vars(Group) if callable(getattr(Group, name)) and name[0] != "_"]
MODULES = [
    module.name for module in pkgutil.iter_modules(groups.__path__) if module.name != "group"
]


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_there_are_four_exchanges():
    assert EXCHANGES == ["all_to_all", "all_gather", "reduce_scatter", "all_sum"]


@pytest.mark.parametrize("name", MODULES)
def test_every_group_implements_the_protocol(name):
    try:
        module = importlib.import_module(f"{groups.__name__}.{name}")
    except ImportError as missing:
        pytest.skip(f"{name} needs {missing.name}")
    own = [
        value
        for key, value in vars(module).items()
        if key.endswith("Group") and getattr(value, "__module__", "") == module.__name__
    ]
    assert own
    for group in own:
        assert "size" in {*parameters(group), *vars(group)}
        for exchange in EXCHANGES:
            assert parameters(getattr(group, exchange)) == parameters(getattr(Group, exchange))
