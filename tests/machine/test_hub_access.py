"""Access to the hub: it answers, it refuses, it is not there, and there is no network."""

from contextlib import ExitStack

import pytest
from huggingface_hub import constants

from mimo_v2_flash.machine.diagnosis import OK, PROBLEM
from mimo_v2_flash.machine.hub_access import diagnose_hub
from tests.support.local_hub import COMMIT, REPOSITORY, LocalHub, Manners, visited


@pytest.fixture
def visit(monkeypatch, tmp_path):
    """Return a function that starts a hub for this process."""
    (tmp_path / "config.json").write_text("{}")
    with ExitStack() as stack:
        yield lambda **manners: stack.enter_context(
            visited(LocalHub(tmp_path, Manners(**manners)), monkeypatch, tmp_path / "home")
        )


def test_a_hub_that_answers(visit):
    hub = visit()
    diagnosis = diagnose_hub(REPOSITORY)
    assert (diagnosis.level, diagnosis.text) == (OK, f"{hub.endpoint} has {REPOSITORY}")
    assert diagnosis.numbers["revision"] == COMMIT
    assert diagnosis.numbers["is_reachable"] is True
    assert len(hub.requests) == 1


def test_a_hub_that_refuses_is_a_problem(visit):
    visit(token="secret")
    diagnosis = diagnose_hub(REPOSITORY)
    assert (diagnosis.level, diagnosis.numbers["is_reachable"]) == (PROBLEM, False)
    assert "HF_ENDPOINT" in diagnosis.remedy


def test_a_hub_that_is_not_there_is_a_problem(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    diagnosis = diagnose_hub()
    assert diagnosis.level == PROBLEM
    assert diagnosis.text.startswith("http://127.0.0.1:9 does not give XiaomiMiMo/MiMo-V2-Flash: ")
    assert "\n" not in diagnosis.text


def test_without_a_network_the_hub_is_not_asked(visit, monkeypatch):
    hub = visit()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    diagnosis = diagnose_hub(REPOSITORY)
    assert (diagnosis.level, diagnosis.numbers["is_reachable"]) == (OK, None)
    assert hub.requests == []
