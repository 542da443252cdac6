"""The options of a plan: what is not said follows from what is."""

import argparse

import pytest

from mimo_v2_flash.commands.parallel import add_plan_arguments, asked_plan
from mimo_v2_flash.plan import Plan


def asked(*words: str) -> Plan:
    parser = argparse.ArgumentParser()
    add_plan_arguments(parser)
    return asked_plan(**vars(parser.parse_args(words)))


@pytest.mark.parametrize(
    ("words", "plan"),
    [
        ("", Plan()),
        ("--expert-parallel 8", Plan(8, 1, 8)),
        ("--tensor-parallel 4", Plan(None, 4, 1)),
        ("--expert-parallel 32 --tensor-parallel 4", Plan(32, 4, 8)),
        ("--expert-parallel 2 --tensor-parallel 4", Plan(2, 4, 1)),
        ("--expert-parallel 2 --data-parallel 8", Plan(2, 1, 8)),
        ("--expert-parallel 32 --tensor-parallel 4 --data-parallel 8", Plan(32, 4, 8)),
    ],
)
def test_the_batch_is_split_as_the_experts_ask(words, plan):
    assert asked(*words.split()) == plan


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--tensor-parallel 0", "tensor_parallel = 0"),
        ("--expert-parallel -1", "expert_parallel = -1"),
        ("--data-parallel 0", "data_parallel = 0"),
        ("--expert-parallel 3 --tensor-parallel 2", "expert_parallel = 3: allowed is a divisor"),
    ],
)
def test_the_impossible_is_refused(words, said):
    with pytest.raises(ValueError, match=said):
        asked(*words.split())
