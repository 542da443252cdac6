"""Group protocols: every group class has their methods, with equal parameters."""

import importlib
import inspect
import pkgutil

import pytest

from mimo_v2_flash import parallel
from mimo_v2_flash.parallel import Group, HostGroup, InstrumentedGroup, SoloGroup, ThreadGroup
from mimo_v2_flash.parallel.process_group import ProcessGroup


def methods(protocol) -> list[str]:
    return [name for name, value in vars(protocol).items() if callable(value) and name[0] != "_"]


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def every_group() -> list[type]:
    """Return every class of the package whose name ends with "Group", without the protocols."""
    groups = {}
    for module in pkgutil.iter_modules(parallel.__path__):
        namespace = vars(importlib.import_module(f"{parallel.__name__}.{module.name}"))
        groups |= {name: value for name, value in namespace.items() if name.endswith("Group")}
    return [value for value in groups.values() if value not in {Group, HostGroup}]


def test_kernels_have_four_collectives():
    assert methods(Group) == ["all_to_all", "all_gather", "reduce_scatter", "all_reduce"]


@pytest.mark.parametrize("group", every_group())
def test_every_group_has_the_collectives(group):
    for name in methods(Group):
        assert parameters(getattr(group, name)) == parameters(getattr(Group, name))


@pytest.mark.parametrize("group", [SoloGroup, ThreadGroup, InstrumentedGroup, ProcessGroup])
def test_a_host_group_has_more_methods(group):
    for name in methods(HostGroup):
        assert parameters(getattr(group, name)) == parameters(getattr(HostGroup, name))
