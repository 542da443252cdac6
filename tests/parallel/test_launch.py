"""init_process_group: a single process is a SoloGroup; several processes need torch."""

import sys

import pytest

from mimo_v2_flash.parallel import SoloGroup, init_process_group


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "1", "RANK": "0"}])
def test_a_single_process_is_a_solo_group(variables):
    with init_process_group(variables) as group:
        assert group == SoloGroup()


def test_several_ranks_need_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "mimo_v2_flash.parallel.process_group", raising=False)
    monkeypatch.delitem(sys.modules, "mimo_v2_flash.parallel.transport", raising=False)
    with (
        pytest.raises(ModuleNotFoundError, match=r"pip install 'mimo-v2-flash\[distributed\]'"),
        init_process_group({"WORLD_SIZE": "2", "RANK": "0"}),
    ):
        pass
