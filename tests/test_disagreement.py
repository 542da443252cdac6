"""Ranks called with different arguments raise an error that names ranks and values."""

from dataclasses import replace

import numpy as np
import pytest

from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.generation.generation_config import GenerationConfig
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.rows import ragged
from tests.support.tiny import Recipe, random_tokens, running, tiny

MODEL = tiny(Recipe(experts=8, dense_width=32))
UNSHARDED = MODEL.weights
OTHER = MODEL._replace(weights=UNSHARDED._replace(final_norm_D=UNSHARDED.final_norm_D * 2))


class StaticBackend(NumpyBackend):
    """A backend of the other execution mode."""

    execution_mode = "static"


ZERO_HEAD = MODEL._replace(
    weights=UNSHARDED._replace(w_logits_VD=np.zeros_like(UNSHARDED.w_logits_VD))
)
TRAINIUM = MODEL._replace(weights=UNSHARDED._replace(prepared=("fp8", "trainium2")))
TOKEN_BT, POSITION_BT = ragged([random_tokens(MODEL, 5), random_tokens(MODEL, 3)], [0, 0])


def on_ranks(program) -> None:
    """Run `program(rank, options)` on four ranks."""
    group = ThreadGroup(4)
    options = {"group": group, "plan": ParallelConfig(4, 2, 2)}
    group.run(lambda rank: program(rank, options))


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"model": OTHER}, "weights: '.*' on ranks 0 to 2; '.*' on rank 3"),
        ({"model": ZERO_HEAD}, "heads: '.*' on rank 1; '.*' on rank 3$"),
        ({"model": TRAINIUM}, "weights: '.*' on ranks 0 to 2; '.*' on rank 3"),
        (
            {"model": MODEL._replace(config=replace(MODEL.config, rope_theta=7.0))},
            r"config: .* on ranks 0 to 2; .* on rank 3",
        ),
        ({"max_length": 9}, r"max_length: \(8192, None\) on ranks 0 to 2; \(9, None\) on rank 3"),
        (
            {"cache_dtype": "bfloat16"},
            r"cache_dtype: dtype\('float32'\) on ranks 0 to 2; dtype\(bfloat16\) on rank 3",
        ),
        ({"generation_config": GenerationConfig(top_k=3)}, "generation_config: .* on rank 3"),
        ({"backend": StaticBackend()}, "execution_mode: 'EagerMode' .*; 'StaticMode' on rank 3"),
        ({"max_step": 7}, "max_step: 512 on ranks 0 to 2; 7 on rank 3"),
        ({"exchange": "all_gather"}, "exchange: None on ranks 0 to 2; 'all_gather' on rank 3"),
        (
            {"expert_subset": range(1, 8)},
            "expert_parallel_size = 4: allowed is a divisor of 7 experts",
        ),
        (
            {"plan": ParallelConfig(2, 2, 2)},
            "plan: .*expert_parallel_size=4.* on ranks 0 to 2; .*=2.* on rank 3",
        ),
    ],
    ids=lambda odd: next(iter(odd)) if isinstance(odd, dict) else "",
)
def test_ranks_with_different_models_are_told_apart(odd, message):
    def program(rank: int, options: dict) -> None:
        running(**({"model": MODEL} | options | (odd if rank == 3 else {})))

    with pytest.raises(ValueError, match=message):
        on_ranks(program)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"token_BT": TOKEN_BT + np.eye(2, 5, dtype=int)}, "token_BT: .* on ranks 0, 2, 3; .* on"),
        (
            {"position_BT": POSITION_BT[:, :4], "token_BT": TOKEN_BT[:, :4]},
            r"position_BT: \(\(2, 5",
        ),
        ({"logits_at": [[0], [1]]}, r"logits_at: .* on ranks 0, 2, 3; \(\(2, 1\), .* on rank 1"),
    ],
    ids=["tokens", "lengths", "logits"],
)
def test_ranks_with_different_steps_are_told_apart(odd, message):
    step = {"token_BT": np.minimum(TOKEN_BT, 50), "position_BT": POSITION_BT, "logits_at": None}

    def program(rank: int, options: dict) -> None:
        model = running(MODEL, **options)
        cache = model.new_cache(2, 9)
        model.step(**(step | (odd if rank == 1 else {})), cache=cache)
        assert cache.length_B.tolist() == [0, 0]

    with pytest.raises(ValueError, match=message):
        on_ranks(program)


def view(model, start: int):
    return model.new_cache(4, 9).view(start, start + 2)


def after_a_step(model):
    """Return a cache that says it holds a token of each row; the other ranks took no step."""
    cache = model.new_cache(2, 9)
    cache.length_B[:] = 1
    return cache


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (lambda model: model.new_cache(2, 9, "bfloat16"), "cache: .*'float32'.*; .*'bfloat16'"),
        (lambda model: model.new_cache(2, 12), r"cache: \(2, 9, .*; \(2, 12, "),
        (lambda model: model.new_cache(3, 9), r"cache: \(2, 9, .*; \(3, 9, "),
        (lambda model: view(model, 1), "cache: "),
        (after_a_step, r"cache: .*\[0, 0\].*; .*\[1, 1\]"),
    ],
    ids=["dtype", "length", "rows", "view", "tokens"],
)
def test_ranks_with_different_caches_are_told_apart(odd, message):
    """Ranks that share heads would mix roundings, or sequences, without a word."""
    group, plan = ThreadGroup(2), ParallelConfig(1, 2, 1)

    def program(rank: int) -> None:
        model = running(MODEL, group=group, plan=plan)
        cache = odd(model) if rank else model.new_cache(2, 9)
        model.step(np.minimum(TOKEN_BT, 50), POSITION_BT, cache)

    with pytest.raises(ValueError, match=f"ranks do not agree on {message}"):
        group.run(program)


def test_views_of_different_sequences_are_told_apart():
    """On ranks that share heads, both views have the same sizes, lengths and sequences."""
    group, plan = ThreadGroup(2), ParallelConfig(1, 2, 1)

    def program(rank: int) -> None:
        model = running(MODEL, group=group, plan=plan)
        model.step(np.minimum(TOKEN_BT, 50), POSITION_BT, view(model, rank))

    with pytest.raises(ValueError, match="ranks do not agree on cache: "):
        group.run(program)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"seed": 5}, "seed: None on ranks 0, 2, 3; 5 on rank 1"),
        ({"temperature": 0.5}, "temperature: 1.0 on ranks 0, 2, 3; 0.5 on rank 1"),
        ({"max_new_tokens": 2}, "max_tokens: 1 on ranks 0, 2, 3; 2 on rank 1"),
        ({"eos_token_id": [7]}, r"stop_token_ids: \(\) on ranks 0, 2, 3; \(7,\) on rank 1"),
        ({"cache_dtype": "bfloat16"}, "cache_dtype: .*float32.*; .*bfloat16.* on rank 1"),
        ({"input_ids": [[1, 2, 4]]}, r"prompts: .*3\]\] on ranks 0, 2, 3; .*4\]\] on rank 1"),
    ],
    ids=lambda odd: next(iter(odd)) if isinstance(odd, dict) else "",
)
def test_ranks_that_generate_differently_are_told_apart(odd, message):
    """With one token to draw, no later step would show it."""
    call = {"input_ids": [[1, 2, 3]], "max_new_tokens": 1, "temperature": 1.0, "eos_token_id": []}

    def program(rank: int, options: dict) -> None:
        running(MODEL, **options).generate(**(call | (odd if rank == 1 else {})))

    with pytest.raises(ValueError, match=message):
        on_ranks(program)
