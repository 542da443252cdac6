"""engine: rank 0 leads and the others follow: what a step costs, how it ends, whose errors."""

from collections import Counter

import numpy as np
import pytest

from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.engine.generate import generate
from mimo_v2_flash.layers.nonfinite import NonFiniteError
from mimo_v2_flash.parallel import InstrumentedGroup, RankError, ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.engine_model import HistoryModel, logits_after
from tests.support.engine_oracle import answer_alone
from tests.support.engine_tiny import RECIPE
from tests.support.poison import BAD_TOKEN, poisoned
from tests.support.processes import by_hand, by_torchrun
from tests.support.spread import admitting
from tests.support.tiny import running, tiny

V, LENGTH = 23, 40
SHORT = SamplingParams(max_tokens=3)


class RankedModel(HistoryModel):
    """One rank's model of hashes: every rank computes all rows, and no collective."""

    def __init__(self, group, **options) -> None:
        super().__init__(V, LENGTH, **options)
        self.group = group


def on_ranks(group, lead, *, model=RankedModel, fails=None, **options):
    """Return what `lead(engine)` returns on rank 0, and what becomes of the others.

    `fails` is (rank, step): the rank's model fails at that step.
    """

    def program(rank: int):
        at = fails[1] if fails and fails[0] == rank else None
        ours = model(group, fails_at=at)
        try:
            with Engine(ours, 4, prefill_chunk=5, **options) as engine:
                return lead(engine) if rank == 0 else engine.follow()
        finally:
            models[rank] = ours

    models: dict[int, HistoryModel] = {}
    return group.run(program), models


@pytest.mark.parametrize("prefix_cache", [0, 1 << 20])
def test_those_that_follow_run_the_same_steps_and_return_when_rank_0_closes(prefix_cache):
    group, prompts = ThreadGroup(3), [[1, 2, 3] * 11, [4], [1, 2, 3] * 11]
    params = SamplingParams(max_tokens=4, temperature=1.0, seed=3, n=2)

    def lead(engine):
        first = [engine.submit(prompt, params) for prompt in prompts[:2]]
        results = engine.run()
        last = engine.submit(prompts[2], params)
        return [*(results[id_] for id_ in first), engine.run()[last]]

    (results, *followed), models = on_ranks(group, lead, prefix_cache=prefix_cache)
    assert followed == [None, None]
    for prompt, result in zip(prompts, results, strict=True):
        for index, answer in enumerate(result.answers):
            alone = answer_alone(
                lambda tokens: logits_after(tokens, V),
                prompt,
                params,
                index=index,
                max_length=LENGTH,
            )
            assert answer.tokens == alone.tokens
    for rank in (1, 2):
        assert len(models[rank].steps) == len(models[0].steps)
        for one, other in zip(models[rank].steps, models[0].steps, strict=True):
            np.testing.assert_array_equal(one, other)
        caches = models[rank].cache, models[0].cache
        np.testing.assert_array_equal(*(cache.length_B for cache in caches))


def test_those_that_follow_take_no_requests():
    group = ThreadGroup(2)

    def program(rank: int):
        with Engine(RankedModel(group), 4) as engine:
            if rank == 0:
                with pytest.raises(RuntimeError, match=r"^rank 0 leads: call submit\(\)"):
                    engine.follow()
                return
            for call in (engine.step, lambda: engine.submit([1])):
                with pytest.raises(RuntimeError, match=r"^rank 1 follows: call follow\(\)$"):
                    call()
            engine.follow()
        with pytest.raises(RuntimeError, match="the engine is closed"):
            engine.follow()

    group.run(program)


def test_an_error_of_rank_0_outside_of_a_step_is_named():
    def lead(engine):
        engine.submit([1], SHORT)
        engine.step()
        raise LookupError("no such page")

    group, errors = ThreadGroup(3), Counter()

    def program(rank: int):
        with Engine(RankedModel(group), 4) as engine:
            if rank == 0:
                with pytest.raises(LookupError), engine:
                    lead(engine)
                return
            with pytest.raises(RankError) as caught:
                engine.follow()
            errors[str(caught.value)] += 1

    group.run(program)
    assert errors == {"rank 0 raised LookupError: no such page": 2}


@pytest.mark.parametrize("step", [0, 2])
def test_a_model_that_fails_on_rank_0_ends_all_by_its_name(step):
    group, results = ThreadGroup(3), {}

    def lead(engine):
        id_ = engine.submit([1, 2], SamplingParams(max_tokens=9))
        results[0] = engine.run()[id_]

    with pytest.raises(RankError, match=r"^rank 0 raised ArithmeticError: the device is gone$"):
        on_ranks(group, lead, fails=(0, step))
    assert str(results[0].answers[0].error) == "the device is gone"


@pytest.mark.parametrize("rank", [1, 2])
def test_a_model_that_fails_elsewhere_ends_the_requests_and_names_the_rank(rank):
    group, results = ThreadGroup(3), {}

    def lead(engine):
        id_ = engine.submit([1, 2], SamplingParams(max_tokens=9))
        results[0] = engine.run()[id_]

    with pytest.raises(ArithmeticError, match=r"^the device is gone$"):
        on_ranks(group, lead, fails=(rank, 1))
    (answer,) = results[0].answers
    assert answer.finish_reason == "error"
    assert isinstance(answer.error, RankError)
    assert str(answer.error) == f"rank {rank} raised ArithmeticError: the device is gone"


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("max_sequences", {"max_sequences": 3}),
        ("max_length", {"max_length": 20}),
        ("cache_dtype", {"cache_dtype": "bfloat16"}),
    ],
)
def test_engines_that_differ_are_named(name, odd):
    group = ThreadGroup(2)
    with pytest.raises(ValueError, match=f"^ranks do not agree on {name}: .* on rank 0; .* rank 1"):
        group.run(lambda rank: Engine(RankedModel(group), **(odd if rank else {})))


PLANS = [ParallelConfig(2, 1, 2), ParallelConfig(2, 2, 1), ParallelConfig(4, 2, 2)]


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_step_is_one_broadcast_and_one_gather_of_shares(plan, temperature):
    oracle, group = tiny(admitting(RECIPE, plan)), ThreadGroup(plan.world_size)
    steps, rows = 6, 4

    def program(rank: int):
        world = InstrumentedGroup(group)
        model = running(oracle, group=world, plan=plan, max_length=64)
        with Engine(model, rows) as engine:
            if rank:
                world.stats.clear()
                engine.follow()
                return numbers(world)
            for token in range(rows):  # no seed is agreed on
                params = SamplingParams(max_tokens=steps, temperature=temperature, ignore_eos=True)
                engine.submit([token] * 3, params)
            world.stats.clear()
            assert len(engine.run()) == rows
            return numbers(world)

    first, *others = group.run(program)
    calls, sent = first.pop("broadcast")
    assert calls == steps
    assert sent < steps * 600 * len(others)
    assert first == {"ragged_all_to_all": (steps, 0)}
    for rank, stats in enumerate(others, start=1):
        assert stats.pop("broadcast") == (steps + 1, 0)  # and the end
        share = share_of(plan, rank, oracle.config.vocab_size, greedy=temperature == 0)
        held = rows // plan.data_parallel_size
        assert stats == {"ragged_all_to_all": (steps, steps * held * (share + 1))}


def numbers(group: InstrumentedGroup) -> dict[str, tuple[int, int]]:
    """Return the calls and the bytes sent of each collective."""
    return {name: (each.calls, each.sent) for name, each in group.stats.items()}


def share_of(plan, rank: int, vocab_size: int, *, greedy: bool) -> int:
    """Return the bytes of a token that a rank sends: two numbers, or its part of the logits."""
    spec = plan.shard_spec(rank)
    if greedy:
        return 0 if spec.tensor_parallel_rank else 8
    return 4 * len(spec.tensor_range(vocab_size))


@pytest.mark.parametrize("plan", [*PLANS, ParallelConfig(2, 4, 1)], ids=str)
def test_a_bad_row_ends_its_request_on_ranks_too(plan):
    """The middle of a prompt, of which no logits are wanted, is looked at as well."""
    oracle, group = tiny(admitting(RECIPE, plan)), ThreadGroup(plan.world_size)
    model = poisoned(oracle, "embedding")
    prompts = [[1, 2, 3], [4, 5], [6, BAD_TOKEN, *[7] * 20], [8] * 9]
    params = SamplingParams(max_tokens=5, logit_bias={BAD_TOKEN: -100.0})

    def program(rank: int):
        ours = running(model, group=group, plan=plan, max_length=64)
        with Engine(ours, 4, prefill_chunk=8) as engine:
            if rank:
                return engine.follow()
            ids = [engine.submit(prompt, params) for prompt in prompts]
            results = engine.run()
            return [results[id_] for id_ in ids]

    results = group.run(program)[0]
    reasons = [result.finish_reason for result in results]
    assert reasons == ["length", "length", "error", "length"]
    assert "embedding, position 1" in str(results[2].answers[0].error)
    with Engine(running(model, max_length=64), 4) as engine:
        for prompt, result in zip(prompts, results, strict=True):
            if result.finish_reason == "length":
                id_ = engine.submit(prompt, params)
                assert engine.run()[id_].tokens == result.tokens


def test_all_ranks_are_told_each_token_in_rank_0s_order():
    group = ThreadGroup(3)
    params = SamplingParams(max_tokens=6, temperature=1.0, stop_token_ids=(7, 11))

    def program(_: int):
        reported = []
        rows = generate(
            RankedModel(group),
            [[1, 2], [3], [1, 2]],
            params,
            on_token=lambda *x: reported.append(x),
        )
        return rows, rows.seed, reported

    first, *others = group.run(program)
    assert others == [first] * 2
    assert [[token for row, token in first[2] if row == r] for r in range(3)] == first[0]


def test_a_callback_that_raises_on_all_ranks_raises_its_own_error_on_each():
    group = ThreadGroup(2)

    def stop(row: int, token: int) -> None:
        raise KeyError("enough")

    def program(_: int):
        with pytest.raises(KeyError, match="enough"):
            generate(RankedModel(group), [[1, 2]], SHORT, on_token=stop)

    group.run(program)


def test_generate_raises_the_same_on_all_ranks():
    group, plan = ThreadGroup(4), ParallelConfig(4, 2, 2)
    model = poisoned(tiny(admitting(RECIPE, plan)), "embedding")

    def program(_: int) -> str:
        ours = running(model, group=group, plan=plan)
        with pytest.raises(NonFiniteError) as caught:
            ours.generate([[1, 2], [3, BAD_TOKEN]], max_new_tokens=3)
        assert caught.value.rows == (1,)
        assert len(ours.generate([[1, 2]], max_new_tokens=3)[0]) == 3  # all go on
        return str(caught.value)

    assert len(set(group.run(program))) == 1


@pytest.mark.distributed
def test_processes_generate_alike():
    run = by_torchrun("generates", 4)
    assert run.codes == [0], run.output
    tokens = [line for line in run.output.splitlines() if line.startswith("tokens ")]
    assert len(tokens) == 4
    assert len(set(tokens)) == 1
    counts = Counter(line for line in run.output.splitlines() if line.startswith("token "))
    assert sum(counts.values()) == 4 * 10
    assert all(count % 4 == 0 for count in counts.values())


@pytest.mark.distributed
def test_processes_follow_through_a_pause_and_end_when_rank_0_closes():
    runs = by_hand("leads_and_follows", 3, heartbeat_timeout=4)
    assert [run.codes for run in runs.values()] == [[0]] * 3, runs
    answers = [line for line in runs[0].output.splitlines() if line.startswith("answer")]
    assert answers == [f"answer {number}: length: None" for number in range(4)]


@pytest.mark.distributed
def test_a_process_that_is_killed_ends_the_requests_by_its_name():
    runs = by_hand("leads_and_follows", 3, odd=2, heartbeat_timeout=4)
    cause = "rank 2 sent no heartbeat for 4 s"
    for number in (0, 1):
        assert f"answer {number}: error: {cause}" in runs[0].output
    for rank in (0, 1):
        assert runs[rank].codes != [0]
        assert cause in runs[rank].output
