"""Consistency checks: the error names what differs between ranks, and its values by rank."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.parallel import SoloGroup, ThreadGroup, check_consistent, check_replicas
from mimo_v2_flash.parallel.consistency import describe_collective, format_by_rank, format_ranks

LONG = "x" * 500


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ([3], "rank 3"),
        ([2, 0], "ranks 0, 2"),
        ([0, 1], "ranks 0, 1"),
        ([0, 1, 2, 3, 5, 7, 8], "ranks 0 to 3, 5, 7, 8"),
    ],
)
def test_ranks_are_named(ranks, expected):
    assert format_ranks(ranks) == expected


@given(st.sets(st.integers(0, 63), min_size=1))
def test_every_rank_is_named_once(ranks):
    _, _, numbers = format_ranks(list(ranks)).partition(" ")
    runs = (run.partition(" to ") for run in numbers.split(", "))
    actual = [rank for first, _, last in runs for rank in range(int(first), int(last or first) + 1)]
    assert actual == sorted(ranks)


def test_texts_are_grouped_by_rank():
    assert format_by_rank(["b", "a", "b"], [0, 4, 5]) == "b on ranks 0, 5; a on rank 4"


def test_a_collective_is_described_by_dtype_and_shape():
    x = np.zeros((2, 3), np.int32)
    assert describe_collective("all_reduce", x) == "all_reduce of int32 [2, 3]"
    assert describe_collective("ragged_all_to_all", x) == "ragged_all_to_all of int32 [rows, 3]"


def test_one_rank_agrees_with_itself():
    check_consistent(SoloGroup(), config=1, weights=LONG)


@pytest.mark.parametrize("fact", [None, 1, 0.5, "text", LONG, (1, 2), {"a": 1}, "ä" * 80])
def test_equal_facts_pass(fact):
    group = ThreadGroup(4)
    group.run(lambda _: check_consistent(group, fact=fact, other="same"))


@pytest.mark.parametrize(
    ("most", "odd"), [(128, 64), ("a", "b"), (LONG, LONG + "y"), (1, 1.0), ("", "\0")]
)
@pytest.mark.parametrize("at", [0, 2])
def test_a_difference_is_named_on_every_rank(most, odd, at):
    group = ThreadGroup(4)
    messages = []

    def program(rank: int) -> None:
        try:
            check_consistent(group, layers=48, window=odd if rank == at else most)
        except ValueError as error:
            messages.append(str(error))

    group.run(program)
    assert len(messages) == 4
    assert len({*messages}) == 1
    assert messages[0].startswith("ranks do not agree on window: ")
    assert f"on rank {at}" in messages[0]
    assert "layers" not in messages[0]


def test_short_facts_are_shown_in_full():
    group = ThreadGroup(3)
    message = "ranks do not agree on window: 128 on ranks 0, 1; 64 on rank 2 | name: 'a' on rank 0"
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        group.run(
            lambda r: check_consistent(
                group, window=64 if r == 2 else 128, name="a" if r < 1 else "b"
            )
        )


@given(st.lists(st.sampled_from(["a", "b"]), min_size=4, max_size=4), st.integers(0, 3))
def test_replicas_are_compared_with_their_own_key_alone(keys, odd):
    group = ThreadGroup(4)
    values = [f"value of {key}" for key in keys]
    group.run(lambda rank: check_replicas(group, heads=(keys[rank], values[rank])))
    values[odd] = "another"
    same = [rank for rank in range(4) if keys[rank] == keys[odd]]
    if len(same) == 1:
        group.run(lambda rank: check_replicas(group, heads=(keys[rank], values[rank])))
        return
    with pytest.raises(ValueError, match="ranks do not agree on heads: ") as caught:
        group.run(lambda rank: check_replicas(group, heads=(keys[rank], values[rank])))
    assert f"'another' on rank {odd}" in str(caught.value)
    other = "b" if keys[odd] == "a" else "a"
    assert f"value of {other}" not in str(caught.value)
