"""Eviction policies: names, files, and what a classic trace does with each."""

import json

import numpy as np
import pytest

from mimo_v2_flash.expert_store.eviction_policies import DEFAULT_POLICY, POLICIES, read_policy
from mimo_v2_flash.expert_store.residency import Residency


def hits(name: str, trace: list[int], slots: int, tokens: int = 1) -> int:
    residency = Residency(np.full((1, 8), 1), slots, read_policy(name), (0,))
    for expert in trace:
        residency.begin_call(0, [expert], tokens)
        residency.release(0, residency.take_group(0, [expert]))
    return residency.hits


def test_the_default_is_a_policy():
    assert DEFAULT_POLICY in POLICIES


def test_lfu_keeps_what_was_often_used_and_lru_what_was_last_used():
    often = [0] * 5 + [1, 2, 3, 4] + [0]
    assert hits("lfu", often, 2) == 5
    assert hits("lru", often, 2) == 4
    recent = [0] * 5 + [1] * 5 + [2, 3, 2, 3, 2, 3]
    assert hits("lfu", recent, 2) == 8
    assert hits("lru", recent, 2) == 12


@pytest.mark.parametrize("name", ["lfu-decay", "class-lru"])
def test_decay_forgets_what_was_often_used(name):
    """Eight uses are four after 128 tokens, and none after 512."""
    old = [0] * 8 + [1, 2, 3, 4]
    assert hits(name, [*old, 0], 2) == 8
    assert hits(name, [*old, 0], 2, tokens=128) == 7


def test_a_class_holds_counts_up_to_the_next_power_of_two():
    """Of three uses and two, in one class, the older goes; lfu takes the fewer."""
    trace = [0, 0, 0, 1, 1, 2, 0]
    assert hits("class-lru", trace, 2) == 3
    assert hits("lfu", trace, 2) == 4


def test_a_static_set_stays(tmp_path):
    file = tmp_path / "set.json"
    file.write_text(json.dumps({"experts": {"0": [3, 99], "7": [1]}}))
    trace = [3, 0, 1, 2, 3, 0, 1, 3]
    assert hits(f"static:{file}", trace, 2) == 2
    assert hits("lru", trace, 2) == 0


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"experts": [1]}', '{"experts": {"x": [1]}}', '{"experts": {"1": 2}}'],
)
def test_a_file_that_is_no_set_is_refused(tmp_path, content):
    file = tmp_path / "set.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"set\.json: no set of experts, as `mimo experts pin`"):
        read_policy(f"static:{file}")


def test_other_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expert_cache_policy is 'fifo', allowed is lfu, lru"):
        read_policy("fifo")
    with pytest.raises(FileNotFoundError, match="absent"):
        read_policy(f"static:{tmp_path / 'absent'}")
