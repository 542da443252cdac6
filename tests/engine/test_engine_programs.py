"""engine: static programs copy known prefixes and answers; each request is as alone."""

import numpy as np
import pytest

from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.engine_tiny import assert_same_answer, run_alone
from tests.support.mtp_oracle import with_heads
from tests.support.tiny import FULL, SLIDING, Recipe, running, tiny

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytest.importorskip("jax").config.update("jax_num_cpu_devices", 32)
pytestmark = pytest.mark.nkipy

from mimo_v2_flash.execution.xla import XlaBackend  # noqa: E402

LAYERS = (FULL, "dense"), (SLIDING, "sparse"), (FULL, "sparse"), (SLIDING, "dense")
MODEL = tiny(Recipe(layers=LAYERS, window=128, experts=4, seed=11))  # 129 keys, as MiMo's
V, BUDGET = MODEL.config.vocab_size, 1 << 24
ROWS, LENGTH, STEP = 3, 256, 192  # a chunk of which a ring keeps 132 tokens
COPIES = "take_tokens", "put_tokens"
ANSWER = SamplingParams(max_tokens=6, logprobs=0)
ANSWERS = SamplingParams(max_tokens=5, logprobs=1, temperature=1.0, seed=4, n=3)


def stem(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng([seed, 5]).integers(0, V, length).tolist()


def parting(at: int, length: int) -> list[int]:
    """Return a prompt that parts from `stem` after `at` tokens."""
    return [*stem(at), (stem(at + 1)[at] + 1) % V, *stem(length - at - 1, 1)]


def alone(prompt: list[int], params: SamplingParams):
    """Return the answers of a request that has an eager engine for itself."""
    return run_alone(running(MODEL, max_length=LENGTH), prompt, params)


def assert_as_alone(answers, prompt: list[int], params: SamplingParams) -> None:
    for index, (one, two) in enumerate(zip(answers, alone(prompt, params), strict=True)):
        assert_same_answer(one, two, prompt, params, index=index, model=MODEL)


@pytest.fixture(scope="module")
def backend() -> XlaBackend:
    return XlaBackend()


@pytest.fixture(scope="module")
def model(backend):
    return running(MODEL, backend=backend, max_length=LENGTH, max_step=STEP)


@pytest.fixture(scope="module")
def steps(model, backend) -> int:
    """Return how many programs the steps have, before anything is copied."""
    with Engine(model, ROWS, prefix_cache=0) as engine:
        for length in (1, 4, STEP):
            answered(engine, stem(length), ANSWER)
    return len(backend.programs)


def answered(engine: Engine, prompt: list[int], params: SamplingParams) -> int:
    """Answer a prompt as it is answered alone; return how many of its tokens were known."""
    id_ = engine.submit(prompt, params)
    request = engine._scheduler.requests[id_]
    assert_as_alone(engine.run()[id_].answers, prompt, params)
    return request.sequences[0].reused


@pytest.mark.parametrize("length", [31, 32, 127, 128, 129, 130, 131, 132, 160])
def test_a_prompt_that_comes_again_starts_at_its_last_block(model, steps, length):
    prompt = stem(200)
    with Engine(model, ROWS, prefix_cache=BUDGET) as engine:
        assert answered(engine, prompt, ANSWER) == 0
        assert answered(engine, prompt[:length], ANSWERS) == length - 1
        assert answered(engine, parting(length, length + 2), ANSWER) == length // 32 * 32


@pytest.mark.parametrize("at", [1, 31, 32, 128, 150])
def test_two_branches_part_anywhere(model, steps, at):
    one, two = stem(170), parting(at, 170)
    with Engine(model, ROWS, prefix_cache=BUDGET) as engine:
        assert answered(engine, one, ANSWER) == 0
        assert answered(engine, two, ANSWERS) == at // 32 * 32
        assert [answered(engine, each, ANSWER) for each in (one, two)] == [160, 160]


def test_what_is_dropped_is_computed_again(model, steps):
    with Engine(model, ROWS, prefix_cache=1) as engine:
        (store,) = engine._worker.prefixes
        store._budget = 6 * (store._full_bytes + store._sliding_bytes)
        for seed in (0, 1, 0):
            assert answered(engine, stem(170, seed), ANSWER) == 0
            assert store.nbytes <= store._budget
        assert answered(engine, stem(170), ANSWER) == 160


def test_requests_that_run_together_are_answered_as_alone(model, steps):
    requests = [(parting(at, 140), ANSWERS if at % 2 else ANSWER) for at in (0, 31, 64, 131)]
    with Engine(model, ROWS, prefix_cache=BUDGET) as engine:
        ids = [engine.submit(*request) for request in requests * 2]
        results = engine.run()
    for id_, (prompt, params) in zip(ids, requests * 2, strict=True):
        assert_as_alone(results[id_].answers, prompt, params)


def test_a_kind_of_layer_has_two_programs_whatever_is_copied(model, steps, backend):
    """Rows, lengths and starts are data; answers and blocks are copied by the same programs."""
    with Engine(model, ROWS, prefix_cache=BUDGET) as engine:
        for at in (0, 1, 40, 133):
            engine.submit(parting(at, 141), ANSWERS)
            answered(engine, parting(at, 150), ANSWER)
    names = [traced.module.name for traced in backend.programs]
    assert [sum(name in each for each in names) for name in COPIES] == [2, 2]
    assert len(names) == steps + 4


def test_ranks_copy_together():
    """Each rank has its rows, and blocks of these alone; all of them run the same programs."""
    group, plan = ThreadGroup(2), ParallelConfig(2, 1, 2)
    backend = XlaBackend(group)
    prompts = [stem(140), parting(70, 140), stem(131), parting(131, 150), stem(140)]

    def on_rank(rank: int):
        sizes = {"max_length": LENGTH, "max_step": STEP}
        model = running(MODEL, backend=backend, group=group, plan=plan, **sizes)
        with Engine(model, 2 * ROWS, prefix_cache=BUDGET, clock=lambda: 0.0) as engine:
            engine._worker.release = lambda: None  # so that its blocks can be looked at
            if rank:
                engine.follow()
                return kept(engine)
            for prompt in prompts[:2]:
                engine.submit(prompt, ANSWERS)
            engine.run()
            ids = [engine.submit(prompt, ANSWERS) for prompt in prompts]
            firsts = [engine._scheduler.requests[id_].sequences[0] for id_ in ids]
            results = engine.run()
            answers = [results[id_].answers for id_ in ids]
            return answers, [first.reused for first in firsts], kept(engine)

    (answers, reused, kept_0), kept_1 = group.run(on_rank)
    assert sum(count > 0 for count in reused) >= 2
    assert kept_0 == kept_1[::-1] == [True, False]
    for prompt, each in zip(prompts, answers, strict=True):
        assert_as_alone(each, prompt, ANSWERS)


def kept(engine: Engine) -> list[bool]:
    """Return of each data-parallel rank's blocks whether they take memory on this rank."""
    first_blocks = [next(iter(store._used)) for store in engine._worker.prefixes]
    return [block.full[0][0].strides[0] > 0 for block in first_blocks]


DRAFTING = with_heads(
    Recipe(
        layers=LAYERS[:2], vocabulary=62, window=20, experts=4, hidden=24, dense_width=30, seed=3
    )
).model
DRAFTED = [([1, 2, 3, 4, 5, 6, 7] * 4, ANSWER), ([3, 4], ANSWERS), ([5] * 9, ANSWERS)]


def drafted(drafts: int, **options):
    """Return the answers to `DRAFTED` with so many drafts, and how many drafts held."""
    model = running(DRAFTING, max_length=64, max_step=32, **options)
    with Engine(model, 8, draft_tokens=drafts, prefix_cache=BUDGET) as engine:
        if model.group.rank:
            return engine.follow()
        ids = [engine.submit(*request) for request in DRAFTED]
        results = engine.run()
        answers = [[each.tokens for each in results[id_].answers] for id_ in ids]
        return answers, engine.stats.drafted, engine.stats.accepted


@pytest.mark.parametrize("plan", [(1, 1, 1), (2, 1, 2), (2, 2, 1)])
def test_heads_draft_in_programs_as_on_numpy_on_ranks_too(plan):
    expected, group = drafted(3), ThreadGroup(plan[0])
    assert expected[0] == drafted(0)[0]
    assert sum(expected[2])
    backend = XlaBackend(group)
    options = {"backend": backend, "group": group, "plan": ParallelConfig(*plan)}
    assert group.run(lambda _: drafted(3, **options))[0] == expected
    heads = [traced for traced in backend.programs if traced.module.name == "mtphead"]
    assert len(heads) <= 3  # a token, 4 and 8 of them: heads share programs
