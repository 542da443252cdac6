"""Validation of arguments: any integer dtype is accepted; errors name argument, place and value."""

import numpy as np
import pytest

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.checkpoint.subset import check_experts
from mimo_v2_flash.cpu.thread_count import resolve_thread_count
from mimo_v2_flash.inputs import (
    as_count,
    as_draft_tokens,
    as_indices,
    as_integer,
    as_new_tokens,
    as_positions,
    as_prompts,
    as_token_ids,
    as_tokens,
)
from mimo_v2_flash.kv_cache import new_cache
from mimo_v2_flash.parallel_config import ParallelConfig

INTEGERS = [np.int8, np.uint8, np.int32, np.int64, np.uint64]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_any_integers_become_int32(dtype):
    input_BT = np.array([[0, 9], [4, 4]], dtype)
    for output_BT in (as_tokens(input_BT, 10), as_positions(input_BT, (2, 2))):
        assert output_BT.dtype == np.int32
        assert output_BT.tolist() == [[0, 9], [4, 4]]


def test_lists_are_taken_as_arrays():
    assert as_tokens([[1, 2]], 10).tolist() == [[1, 2]]
    assert as_positions([[0, -1]], (1, 2)).tolist() == [[0, -1]]


@pytest.mark.parametrize(
    ("token_BT", "message"),
    [
        ([[1, 2], [3, 10]], r"token id 10 in row 1, column 1 is outside of the vocabulary 0..9"),
        ([[1, -2], [3, 10]], r"token id -2 in row 0, column 1 is outside of the vocabulary 0..9"),
        ([[2**32]], r"token id 4294967296 in row 0, column 0"),
        ([1, 2], r"must be \[B, T\] and not empty, got shape \(2,\)"),
        ([[[1]]], r"must be \[B, T\] and not empty, got shape \(1, 1, 1\)"),
        (np.zeros((2, 0), int), r"must be \[B, T\] and not empty, got shape \(2, 0\)"),
        ([[]], r"token ids must not be empty, got shape \(1, 0\)"),
        ([[1.0]], r"token ids must be integers, got float64 of shape \(1, 1\)"),
        ([[True]], r"token ids must be integers, got bool of shape \(1, 1\)"),
        ([["a"]], "token ids must be integers, got <U1"),
        (None, "token ids must be integers, got object"),
    ],
)
def test_tokens_are_refused_by_place_and_value(token_BT, message):
    with pytest.raises(ValueError, match=message):
        as_tokens(token_BT, 10)


@pytest.mark.parametrize(
    ("position_BT", "message"),
    [
        ([[0, 1, 2]], r"positions are \(1, 3\), the tokens are \(1, 2\)"),
        ([0, 1], r"positions are \(2,\), the tokens are \(1, 2\)"),
        ([[0.0, 1.0]], "positions must be integers, got float64"),
        ([[2**32, 1]], "positions must be int32, got 4294967296"),
        ([[0, 2**31]], "positions must be int32, got 2147483648"),
        ([[0, -(2**31) - 1]], "positions must be int32, got -2147483649"),
        ([[2 - 2**32, 1]], "positions must be int32, got -4294967294"),
        (np.array([[2**64 - 1, 0]], np.uint64), f"positions must be int32, got {2**64 - 1}"),
    ],
)
def test_positions_that_are_not_the_tokens_are_refused(position_BT, message):
    with pytest.raises(ValueError, match=message):
        as_positions(position_BT, (1, 2))


def test_indices_are_all_tokens_unless_given():
    assert as_indices("at", None, (2, 3)).tolist() == [[0, 1, 2], [0, 1, 2]]
    assert as_indices("at", [[2, 0, 2], [1, 1, 1]], (2, 3)).tolist() == [[2, 0, 2], [1, 1, 1]]


@pytest.mark.parametrize(
    ("index_Bn", "message"),
    [
        ([[0]], r"logits_at must be \[2, n\], got shape \(1, 1\)"),
        ([0, 1], r"logits_at must be \[2, n\], got shape \(2,\)"),
        (np.zeros((2, 0), int), r"logits_at must be \[2, n\], got shape \(2, 0\)"),
        ([[0], [3]], r"logits_at must be in -1..2, got 3"),
        ([[-2], [0]], r"logits_at must be in -1..2, got -2"),
        ([[0.5], [0]], "logits_at must be integers"),
    ],
)
def test_indices_that_no_token_has_are_refused(index_Bn, message):
    with pytest.raises(ValueError, match=message):
        as_indices("logits_at", index_Bn, (2, 3))


@pytest.mark.parametrize(
    "prompts",
    [[[1, 2], [3]], ((1, 2), (3,)), (np.array([1, 2]), [np.int64(3)]), iter([[1, 2], [3]])],
)
def test_prompts_are_any_sequences(prompts):
    assert as_prompts(prompts, 10) == [[1, 2], [3]]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "there is no prompt"),
        ([[1], []], "prompt 1 must be a sequence of token ids, and not empty"),
        ([1, 2], "prompt 0 must be a sequence of token ids"),
        ([[1], [[2]]], "prompt 1 must be a sequence of token ids"),
        ("text", "prompt 0 must be a sequence of token ids"),
        ([[1], [0.5]], "token ids of prompt 1 must be integers, got float64"),
        ([[1], [2, 3, 10]], "token id 10 in row 1, column 2 is outside of the vocabulary 0..9"),
    ],
)
def test_prompts_are_refused_by_their_row(prompts, message):
    with pytest.raises(ValueError, match=message):
        as_prompts(prompts, 10)


@pytest.mark.parametrize(
    ("tokens", "ids"),
    [(None, set()), (0, {0}), (7, {7}), (np.int64(7), {7}), ([], set()), ({7, 8}, {7, 8})],
)
def test_one_token_id_or_several_or_none(tokens, ids):
    assert as_token_ids("end", tokens, 9) == ids


NO_TOKEN_IDS = ["7", "", [7, None], 7.0, [[7]], {"7": 7}, True, [0, False], -1, [0, 9], 99999]


@pytest.mark.parametrize("tokens", NO_TOKEN_IDS)
def test_a_token_id_is_an_integer_of_the_vocabulary(tokens):
    with pytest.raises(ValueError, match="allowed is") as refusal:
        as_token_ids("x.json: end", tokens, 9)
    assert str(refusal.value) == f"x.json: end is {tokens!r}, allowed is token ids of 0 to 8"


NO_INTEGERS = [2.5, 2.0, True, False, np.float32(2), np.bool_(True), "2", None, [2], 2 + 0j]


@pytest.mark.parametrize("value", [2, np.int8(2), np.uint64(2)])
def test_an_integer_of_python_or_numpy_is_one(value):
    for integer in (as_integer("n", value), as_count("n", value)):
        assert type(integer) is int
        assert integer == 2


SIZES = {
    "n must": lambda value: as_count("n", value),
    "max_length must": lambda value: new_cache(
        MiMoConfig().layers[:1], batch_size=1, max_length=value
    ),
    "batch_size must": lambda value: new_cache(
        MiMoConfig().layers[:1], batch_size=value, max_length=1
    ),
    "num_layers must": lambda value: MiMoConfig().truncated(value),
    "expert_subset": lambda value: check_experts([value], range(8)),
    "tensor_parallel_size": lambda value: ParallelConfig(2, value),
    "data_parallel_size": lambda value: ParallelConfig(2, 1, value),
    "threads is": lambda value: resolve_thread_count(value, env={}),
}


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_is_no_integer_is_named_wherever_it_is_taken(name, value):
    if value is None and name.startswith(("tensor", "data", "threads")):
        return  # the default
    if isinstance(value, str) and name == "threads is":
        return  # as MIMO_NUM_THREADS has it
    with pytest.raises(ValueError, match=rf"\b{name}\b.*integer"):
        SIZES[name](value)


@pytest.mark.parametrize("ragged", [[[1], [1, 2]], [[1, [2]]], [[[1]], [2]]])
def test_rows_of_several_lengths_are_named(ragged):
    with pytest.raises(ValueError, match=r"^token ids must be integers in rows of one length$"):
        as_tokens(ragged, 10)


def test_drafts_are_as_many_as_there_are_heads_or_decided_by_a_rule():
    assert [as_draft_tokens(each, 3) for each in (0, np.int64(3), "auto")] == [0, 3, "auto"]
    for draft_tokens, message in (
        (4, "draft_tokens is 4, but the model has 3 MTP heads"),
        (-1, "draft_tokens must be at least 0, got -1"),
        ("many", "draft_tokens is 'many', allowed is \"auto\" or 0..3"),
        (1.5, "draft_tokens must be an integer, got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            as_draft_tokens(draft_tokens, 3)


def test_the_last_new_token_needs_no_room():
    assert [as_new_tokens(count, [[1], [1, 2, 3]], 8) for count in (0, 6)] == [0, 6]
    for count, message in (
        (7, "max_new_tokens after a prompt of 3 tokens must be at most 6, got 7"),
        (-1, "max_new_tokens must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            as_new_tokens(count, [[1], [1, 2, 3]], 8)
    with pytest.raises(ValueError, match="tokens of a prompt must be at most 2, got 3"):
        as_new_tokens(1, [[1, 2, 3]], 2)
