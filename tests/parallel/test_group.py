"""Group: everything that calls itself a group offers exactly what may be asked of one."""

import importlib
import inspect
import pkgutil

import pytest

from mimo_v2_flash import parallel
from mimo_v2_flash.parallel import Group, HostGroup, InstrumentedGroup, SoloGroup, ThreadGroup
from mimo_v2_flash.parallel.process_group import ProcessGroup


def offered(protocol) -> list[str]:
    return [name for name, value in vars(protocol).items() if callable(value) and name[0] != "_"]


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def every_group() -> list[type]:
    """Return every class of the package whose name says that it is a group."""
    found = {}
    for module in pkgutil.iter_modules(parallel.__path__):
        inside = vars(importlib.import_module(f"{parallel.__name__}.{module.name}"))
        found |= {name: value for name, value in inside.items() if name.endswith("Group")}
    return [value for value in found.values() if value not in {Group, HostGroup}]


def test_kernels_have_four_exchanges():
    assert offered(Group) == ["all_to_all", "all_gather", "reduce_scatter", "all_reduce"]


@pytest.mark.parametrize("group", every_group())
def test_every_group_has_the_exchanges(group):
    for exchange in offered(Group):
        assert parameters(getattr(group, exchange)) == parameters(getattr(Group, exchange))


@pytest.mark.parametrize("group", [SoloGroup, ThreadGroup, InstrumentedGroup, ProcessGroup])
def test_a_host_s_group_offers_more(group):
    for call in offered(HostGroup):
        assert parameters(getattr(group, call)) == parameters(getattr(HostGroup, call))
