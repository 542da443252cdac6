"""Options of the parallel sizes, the world size that they need, and output from rank 0."""

import argparse
import sys

import pytest

from mimo_v2_flash.cli.parallel_options import (
    SINGLE_RANK,
    add_parallel_arguments,
    only_rank_0_prints,
    parse_parallel_config,
    rank_setup,
)
from mimo_v2_flash.parallel import SoloGroup, ThreadGroup
from mimo_v2_flash.parallel_config import UNSHARDED, ParallelConfig


def parsed(*words: str) -> ParallelConfig:
    parser = argparse.ArgumentParser()
    add_parallel_arguments(parser)
    return parse_parallel_config(**vars(parser.parse_args(words)))


@pytest.mark.parametrize(
    ("words", "plan"),
    [
        ("", ParallelConfig()),
        ("--expert-parallel 8", ParallelConfig(8, 1, 8)),
        ("--tensor-parallel 4", ParallelConfig(None, 4, 1)),
        ("--expert-parallel 32 --tensor-parallel 4", ParallelConfig(32, 4, 8)),
        ("--expert-parallel 2 --tensor-parallel 4", ParallelConfig(2, 4, 1)),
        ("--expert-parallel 2 --data-parallel 8", ParallelConfig(2, 1, 8)),
        ("--expert-parallel 32 --tensor-parallel 4 --data-parallel 8", ParallelConfig(32, 4, 8)),
    ],
)
def test_the_batch_is_split_as_the_experts_ask(words, plan):
    assert parsed(*words.split()) == plan


@pytest.mark.parametrize("option", ["--tensor-parallel", "--expert-parallel", "--data-parallel"])
@pytest.mark.parametrize("size", ["0", "-1", "two"])
def test_what_is_no_size_is_refused(option, size, capsys):
    with pytest.raises(SystemExit):
        parsed(option, size)
    assert f"argument {option}: {size!r} is not an integer above 0" in capsys.readouterr().err


def test_the_impossible_is_refused():
    with pytest.raises(ValueError, match="expert_parallel_size = 3: allowed is a divisor"):
        parsed("--expert-parallel", "3", "--tensor-parallel", "2")


@pytest.mark.parametrize(
    ("size", "options", "plan"),
    [
        (1, (None, 1, None), ParallelConfig()),
        (8, (8, 1, None), ParallelConfig(8, 1, 8)),
        (8, (2, 4, None), ParallelConfig(2, 4, 2)),
        (8, (None, 8, None), ParallelConfig(None, 8, 1)),
        (8, (None, 1, None), ParallelConfig(None, 1, 8)),
    ],
)
def test_ranks_that_run_share_what_was_asked_for(size, options, plan):
    assert rank_setup(ThreadGroup(size), *options).plan == plan


def test_a_rank_knows_its_shard():
    group = ThreadGroup(4)
    shards = group.run(lambda _: rank_setup(group, 4, 2, None).shard_spec)
    assert shards == [ParallelConfig(4, 2, 2).shard_spec(rank) for rank in range(4)]
    assert SINGLE_RANK.shard_spec == UNSHARDED


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (
            1,
            (8, 1, None),
            "--expert-parallel 8 --tensor-parallel 1 --data-parallel 8 needs world size 8, but the "
            "world size is 1: start it with torchrun --nproc-per-node 8",
        ),
        (4, (2, 1, 2), "--data-parallel 2 needs world size 2, but the world size is 4"),
        (4, (8, 1, None), "expert_parallel_size = 8: allowed is a divisor of the 4 ranks"),
        (4, (None, 0, None), "tensor_parallel_size = 0: allowed"),
    ],
)
def test_other_ranks_than_those_that_run_are_refused(size, options, message):
    with pytest.raises(ValueError, match=message):
        rank_setup(ThreadGroup(size), *options)


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_0_alone_writes(capsys, rank):
    with only_rank_0_prints(SoloGroup(rank=rank)):
        sys.stdout.write("out\n")
        sys.stderr.write("error\n")
    sys.stdout.write("after\n")
    assert capsys.readouterr() == (("out\nafter\n", "error\n") if rank == 0 else ("after\n", ""))
