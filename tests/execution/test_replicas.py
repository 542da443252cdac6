"""Ranks as replicas of one program, each with its weights, rows and cache."""

import numpy as np
import pytest

from mimo_v2_flash import NonFiniteError
from mimo_v2_flash.execution.hlo_lint import lint_program
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.agreement import assert_agrees
from tests.support.poison import BAD_TOKEN, poisoned
from tests.support.tiny import KINDS, Recipe, random_tokens, running, tiny

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytest.importorskip("jax").config.update("jax_num_cpu_devices", 32)
pytestmark = pytest.mark.nkipy

from mimo_v2_flash.execution.executable import cpu_devices  # noqa: E402
from mimo_v2_flash.execution.xla import XlaBackend  # noqa: E402

MODEL = tiny(Recipe(layers=Recipe().layers[:4], vocabulary=64, dense_width=32, experts=8))
PROMPTS = [random_tokens(MODEL, length, seed=length).tolist() for length in (20, 5, 9, 1)]
OPTIONS = {"max_new_tokens": 20, "eos_token_id": []}
COLLECTIVES = {"all-gather", "all-reduce", "reduce-scatter", "all-to-all"}


@pytest.mark.parametrize("exchange", [None, "all_gather"])
@pytest.mark.parametrize(
    "plan", [ParallelConfig(4, 1, 4), ParallelConfig(4, 2, 2)], ids=["rows", "heads and rows"]
)
def test_4_replicas_generate_the_tokens_of_one_rank(plan, exchange):
    """With two collectives a layer, which are quicker for few tokens, and with all others."""
    group = ThreadGroup(4)
    backend = XlaBackend(group)

    def generated(_: int) -> list[list[int]]:
        options = {"backend": backend, "group": group, "plan": plan, "max_step": 8}
        options["exchange"] = exchange
        return running(MODEL, **options).generate(PROMPTS, **OPTIONS)

    expected = running(MODEL).generate(PROMPTS, **OPTIONS)
    assert group.run(generated) == [expected] * 4
    opcodes = set()
    for traced in backend.programs:
        assert lint_program(traced.module) == []
        opcodes |= {i.opcode for part in traced.module.computations for i in part.instructions}
    layers, head = {None: ({"all-reduce"}, {"all-gather"})}.get(
        exchange, ({"all-gather", "reduce-scatter"}, {"all-reduce"})
    )
    shared_heads = head if plan.tensor_parallel_size > 1 else set()
    assert opcodes & COLLECTIVES == layers | shared_heads


def test_views_of_sequences_on_some_replicas_are_those_of_one_rank():
    group, plan = ThreadGroup(4), ParallelConfig(4, 1, 4)
    backend = XlaBackend(group)
    token_BT, position_BT = random_tokens(MODEL, 6, 3), np.tile(np.arange(3), (6, 1))
    expected_BTV = running(MODEL).forward(token_BT)

    def viewed(_: int) -> np.ndarray:
        model = running(MODEL, backend=backend, group=group, plan=plan, max_step=8)
        cache, logits_BTV = model.new_cache(6, 40), np.zeros_like(expected_BTV)
        for rows in (slice(1, 5), slice(5, 6), slice(0, 1)):
            view = cache.view(rows.start, rows.stop)
            logits_BTV[rows] = model.step(token_BT[rows], position_BT[rows], view)
        return logits_BTV

    for logits_BTV in group.run(viewed):
        assert_agrees(logits_BTV, expected_BTV, scale=10 * np.ptp(expected_BTV))


def twice(x):
    return x * np.float32(2)


def test_replicas_that_call_with_different_shapes_are_refused():
    group = ThreadGroup(4)
    program = XlaBackend(group).compile(twice)
    with pytest.raises(ValueError, match="replicas called different programs"):
        group.run(lambda rank: program(np.ones(1 + rank // 3, np.float32)))


def test_more_replicas_than_devices_are_refused():
    assert len(cpu_devices(2)) == 2
    with pytest.raises(RuntimeError, match="33 replicas: jax has started with 32 CPU devices"):
        cpu_devices(33)
    np.testing.assert_array_equal([device.id for device in cpu_devices(3)], [0, 1, 2])


WIDE = tiny(Recipe(layers=(KINDS[0], KINDS[3]), vocabulary=64, dense_width=32, experts=32))


@pytest.mark.parametrize(
    "plan", [ParallelConfig(4, 1, 4), ParallelConfig(32, 1, 32), ParallelConfig(8, 1, 32)], ids=str
)
def test_every_replica_has_its_own_cache_and_the_bits_of_one_alone(plan):
    """The first layer's cache is written before any collective; later sums have another order."""
    P = plan.world_size
    token_BT = random_tokens(WIDE, P, 12)
    position_BT = np.broadcast_to(np.arange(12, dtype=np.int32), (P, 12))
    group = ThreadGroup(P)
    backend = XlaBackend(group)

    def caches(**options):
        model = running(WIDE, max_step=8, **options)

        def after_step(token_bT):
            cache = model.new_cache(len(token_bT), 40)
            model.step(token_bT, position_BT[: len(token_bT)], cache)
            return [tuple(map(np.asarray, layer)) for layer in cache.layers]

        return after_step

    rank_caches = group.run(lambda _: caches(backend=backend, group=group, plan=plan)(token_BT))
    alone = caches(backend=XlaBackend())
    for row, layers in zip(token_BT, rank_caches, strict=True):
        first, second = alone(row[None])
        for actual, expected in zip(layers[0], first, strict=True):
            np.testing.assert_array_equal(actual[:-1], expected[:-1])  # the last row is trash
        for actual, expected in zip(layers[1][:2], second[:2], strict=True):
            assert_agrees(actual[:-1], expected[:-1])
        np.testing.assert_array_equal(layers[1][2], second[2])
    assert len({layers[0][0].tobytes() for layers in rank_caches}) == P


@pytest.mark.parametrize(
    ("weight", "layer", "part"),
    [
        ("embedding", None, "embedding"),
        ("experts", 1, "decoder layer"),
        ("w_q_OD", 2, "decoder layer"),
    ],
)
def test_all_replicas_name_the_bad_row_and_its_layer(weight, layer, part):
    """Programs tell layers apart; the other rows are right, and go on."""
    group, plan = ThreadGroup(4), ParallelConfig(4, 2, 2)
    backend, model = XlaBackend(group), poisoned(MODEL, weight, layer=layer, expert=3)
    rows = [random_tokens(MODEL, 6, seed=row) for row in range(3)]
    rows = [np.where(row == BAD_TOKEN, 0, row) for row in rows]
    expected_BTV = running(MODEL).forward(rows)
    rows[1][4] = BAD_TOKEN
    step = np.array(rows), np.tile(np.arange(6), (3, 1))

    def failed(_: int) -> tuple[NonFiniteError, list[int]]:
        ours = running(model, backend=backend, group=group, plan=plan, max_step=8)
        cache = ours.new_cache(3, 12)
        with pytest.raises(NonFiniteError) as caught:
            ours.step(*step, cache)
        return caught.value, cache.length_B.tolist()

    results = group.run(failed)
    first, lengths = results[0]
    assert [str(error) for error, _ in results] == [str(first)] * 4
    for row in range(3):
        assert lengths[row] == (0 if row in first.rows else 6)
    for cause in first.causes.values():
        assert (cause.layer, cause.part) == (layer, part)
    if weight == "embedding":
        assert first.rows == (1,)
        others = [0, 2]
        expected = expected_BTV[others]
        assert_agrees(first.logits[others], expected, scale=10 * np.ptp(expected))
