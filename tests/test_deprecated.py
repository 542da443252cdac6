"""Deprecated import paths: each name of the last release is found, and a warning says where."""

import importlib

import numpy as np
import pytest

from mimo_v2_flash.deprecated import MOVED
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.agreement import assert_agrees
from tests.support.tiny import running, tiny

NAMES = [(module, name, path) for module, names in MOVED.items() for name, path in names.items()]
PROMISED = {
    ("backends", "backend_named"),
    ("cli.trace_file", "write_trace"),
    ("generation.text", "complete"),
    ("generation.tokenizer", "load_tokenizer"),
    ("groups", "ThreadGroup"),
    ("plan", "Plan"),
    ("weights", "load_weights"),
    ("weights.checkpoint", "open_checkpoint"),
    ("weights.convert", "plan_conversion_job"),
    ("weights.encoding", "Encoding"),
    ("weights.source", "FolderSource"),
}


NEW_NAMES = {
    "CountedGroup": "InstrumentedGroup",
    "Plan": "ParallelConfig",
    "Share": "ShardSpec",
    "WHOLE": "UNSHARDED",
    "agree": "check_consistent",
    "backend_named": "get_backend",
    "shares_of": "all_shard_specs",
    "started": "init_process_group",
}


def old(module: str, name: str):
    return getattr(importlib.import_module(f"mimo_v2_flash.{module}"), name)


@pytest.mark.parametrize(("module", "name", "path"), NAMES)
def test_a_moved_name_is_the_new_one_and_warns(module, name, path):
    package, _, new_name = path.rpartition(".")
    new = getattr(importlib.import_module(f"mimo_v2_flash.{package}"), new_name)
    with pytest.warns(DeprecationWarning, match=rf"{name} is now mimo_v2_flash\.{path}$") as caught:
        moved = old(module, name)
    assert moved is new or issubclass(moved, new)
    assert caught[0].filename == __file__


def test_what_was_promised_is_among_them():
    assert {(module, name) for module, name, _ in NAMES} >= PROMISED


def test_other_names_than_these_are_unchanged():
    new_names = {name: path.rpartition(".")[2] for _, name, path in NAMES}
    assert {old: new for old, new in new_names.items() if old != new} == NEW_NAMES


@pytest.mark.parametrize("module", MOVED)
def test_an_unknown_name_is_an_ordinary_error(module):
    with pytest.raises(AttributeError, match=f"mimo_v2_flash.{module}' has no attribute 'absent'"):
        old(module, "absent")


def test_an_import_statement_warns_as_well():
    with pytest.warns(DeprecationWarning, match="ThreadGroup is now"):
        from mimo_v2_flash.groups import ThreadGroup  # noqa: F401


def test_a_program_of_the_last_release_runs():
    """Two ranks that share a model, written with the old names, keywords and attributes."""
    with pytest.warns(DeprecationWarning, match="ThreadGroup is now"):
        group = old("groups", "ThreadGroup")(2)
    with pytest.warns(DeprecationWarning, match="Plan is now"):
        plan = old("plan", "Plan")(expert_parallel=2, data_parallel=2)
    assert (plan.world, plan.expert_share, plan.tensor_parallel) == (2, 2, 1)
    assert plan.share(1).expert_parallel_rank == 1
    assert isinstance(plan, ParallelConfig)
    assert not hasattr(plan, "absent")
    model, token_BT = tiny(), np.arange(6).reshape(2, 3)
    options = {"expert_subset": range(6)}  # of 7, so that two ranks have as many
    expected_BTV = running(model, **options).forward(token_BT)
    options |= {"group": group, "plan": plan}
    for logits_BTV in group.run(lambda _: running(model, **options).forward(token_BT)):
        assert_agrees(logits_BTV, expected_BTV)
