"""Execution modes: a backend names one, and both have all that the layers ask for."""

import pytest

from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.execution.program_recorder import ProgramRecorder
from mimo_v2_flash.layers.eager_mode import EagerMode
from mimo_v2_flash.layers.execution_mode import EXECUTION_MODES, ExecutionMode
from mimo_v2_flash.layers.static_mode import StaticMode


def test_a_backend_names_its_mode():
    assert isinstance(EXECUTION_MODES[NumpyBackend.execution_mode], EagerMode)
    assert isinstance(EXECUTION_MODES[ProgramRecorder.execution_mode], StaticMode)


@pytest.mark.parametrize("mode", EXECUTION_MODES.values(), ids=list(EXECUTION_MODES))
def test_a_mode_has_all_that_differs(mode):
    names = {name for name in vars(ExecutionMode) if not name.startswith("_")}
    names |= set(ExecutionMode.__annotations__)
    assert {name for name in vars(type(mode)) if not name.startswith("_")} == names
