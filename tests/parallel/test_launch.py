"""init_process_group: a single process is a SoloGroup; several processes need torch."""

import sys

import pytest

from mimo_v2_flash.parallel import SoloGroup, init_process_group
from mimo_v2_flash.parallel.launch import RunAddress

RUN = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
ODD = {
    "WORLD_SIZE": ["", "two", "0", "-1", "2.5", "9" * 5000],
    "RANK": ["", "x", "-1", "2", "1.0", None],
    "MASTER_ADDR": ["", None],
    "MASTER_PORT": ["", "notaport", "0", "65536", "-1", None],
}


@pytest.mark.parametrize(
    ("name", "text"), [(n, text) for n, texts in ODD.items() for text in texts]
)
def test_a_variable_that_is_missing_or_malformed_is_named_at_once(name, text, monkeypatch):
    """Not after 25 s, in which the other ranks might start; nor after torch has been imported."""
    monkeypatch.setitem(sys.modules, "mimo_v2_flash.parallel.process_group", None)
    variables = RUN | {name: text}
    env = {key: value for key, value in variables.items() if value is not None}
    with (
        pytest.raises(ValueError, match=f"^{name} is .*, expected") as error,
        init_process_group(env),
    ):
        pass
    assert len(str(error.value).splitlines()) == 1


def test_the_address_of_a_rank_is_what_the_variables_say():
    assert RunAddress.of_variables(RUN | {"RANK": "1"}) == (1, 2, "127.0.0.1", 29500)


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"RANK": "x"}])
def test_a_single_process_is_a_solo_group(variables):
    with init_process_group(variables) as group:
        assert group == SoloGroup()


def test_several_ranks_need_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "mimo_v2_flash.parallel.process_group", raising=False)
    monkeypatch.delitem(sys.modules, "mimo_v2_flash.parallel.transport", raising=False)
    with (
        pytest.raises(ModuleNotFoundError, match=r"pip install 'mimo-v2-flash\[distributed\]'"),
        init_process_group(RUN),
    ):
        pass
