"""The recorded programs of a deployment hold every program of a real run, and count calls."""

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_weights
from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.checkpoint.random_weights import random_weights
from mimo_v2_flash.config_presets import SPLIT, HubLayout
from mimo_v2_flash.layers.forward_batch import Step
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.config_files import SMALL
from tests.support.hub_checkpoint import RECIPE, write_hub_checkpoint
from tests.support.tiny import tiny

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytest.importorskip("jax").config.update("jax_num_cpu_devices", 32)
pytestmark = pytest.mark.nkipy

from mimo_v2_flash.costs.step_programs import Deployment, decode_sizes, step_programs  # noqa: E402
from mimo_v2_flash.execution.xla import XlaBackend  # noqa: E402

CONTEXT, CHUNK = 300, 160
CONFIG = replace(SMALL, num_key_value_heads=2, swa_num_key_value_heads=4, intermediate_size=256)


def content(traced) -> bytes:
    return traced.module.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "plan", [ParallelConfig(), ParallelConfig(2, 2, 1), ParallelConfig(2, 1, 2)], ids=str
)
def test_what_a_run_needs_is_in_the_list(plan):
    """Run a prompt in chunks, one token, and one with three drafts, at several KV lengths."""
    needed = programs_of_a_run(random_weights(CONFIG, seed=0), CONFIG, plan)
    deployment = Deployment(CONFIG, plan, 2, CONTEXT, CHUNK, "fp8", np.float32, np.float32)
    assert needed <= programs_listed(deployment)
    assert len(needed) > 6


def test_what_a_run_on_fused_weights_needs_is_in_their_list_alone(tmp_path):
    """Scales of projections that were fused are of 64 rows: their programs are others."""
    hub = write_hub_checkpoint(tiny(RECIPE).oracle, tmp_path, fused=True).folder
    config, plan = MiMoConfig.from_pretrained(hub), ParallelConfig()
    needed = programs_of_a_run(load_weights(hub, config), config, plan)
    sizes = (2, CONTEXT, CHUNK, "fp8", np.float32, np.float32)
    fused = Deployment(config, plan, *sizes, layout=HubLayout(fused=True))
    assert needed <= programs_listed(fused)
    assert not needed <= programs_listed(replace(fused, layout=SPLIT))


def programs_of_a_run(weights: ModelWeights, config: MiMoConfig, plan: ParallelConfig) -> set:
    """Return the modules that a model runs on XLA, whose steps are of every kind."""
    group = ThreadGroup(plan.world_size)
    backend = XlaBackend(group if plan.world_size > 1 else None)

    def run(_: int) -> None:
        options = {
            "backend": backend,
            "group": group,
            "plan": plan,
            "max_step": CHUNK * 2 // plan.data_parallel_size,
            "max_length": CONTEXT,
        }
        model = MiMoV2FlashModel(weights, config, **options)
        caches = [model.new_cache(2, CONTEXT) for _ in "ab"]
        steps = (0, 264, [263]), (264, 1, [0]), (265, 4, range(4)), (269, 3, [2])
        for start, tokens, wanted in steps:
            position_BT = np.broadcast_to(np.arange(start, start + tokens), (2, tokens))
            at, token_BT = np.broadcast_to(wanted, (2, len(wanted))), np.ones((2, tokens), int)
            model.step(token_BT, position_BT, caches[0], logits_at=at)
            model.greedy(token_BT, position_BT, caches[1], at=at)

    group.run(run)
    return {content(traced) for traced in backend.programs}


def programs_listed(deployment: Deployment) -> set:
    """Return the modules of all programs of `deployment`."""
    return {content(called.traced) for called in step_programs(deployment).programs.values()}


def test_every_step_of_the_real_model_is_there_and_calls_every_layer():
    sizes = (MiMoConfig(), ParallelConfig(32, 4, 8), 16, 1000, 128)
    recorded = step_programs(Deployment(*sizes, layers_per_program=1))
    assert [(step.tokens, step.kv_length) for step in recorded.steps] == [
        (tokens, kv_length) for tokens in (128, 4, 1) for kv_length in (256, 512, 1000)
    ]
    for step in recorded.steps:
        tokens, kv_length, calls = step
        assert set(calls) <= set(recorded.programs)
        for name in calls:
            assert f" 2 x {tokens} tokens" in name
            if "attention" in name:
                assert name.endswith(f"{132 if 'sliding' in name else kv_length} filled")
        halves = {"sliding attention": 39, "full attention": 8, "experts": 47}
        whole = {"sliding attention + experts": 39, "full attention + experts": 8}
        ends = {"embedding": 1, "full attention + dense network": 1, "head": 1}
        assert kinds_of(step) == ends | (halves if tokens == 128 else whole)


def test_a_decode_step_of_the_real_model_is_four_programs():
    """Of 8 sequences with 4 tokens each too; prompts whose experts may overflow are blocks."""
    recorded = step_programs(Deployment(MiMoConfig(), ParallelConfig(64, 4, 16), 32, 256, 128))
    names = {step.tokens: list(step.calls) for step in recorded.steps}
    for tokens in (1, 4):
        sizes = f"2 x {tokens} tokens"
        head = f"head, {2 * tokens} of {sizes}"
        ranges = ("(5 full + 19 sliding)", "(20 sliding + 4 full)")
        expected = [
            f"embedding, {sizes}",
            *(f"24 replicated layers {name}, {sizes}, 256 filled" for name in ranges),
        ]
        assert names[tokens] == [*expected, head]
    assert not any("layers" in name for name in names[128])


def test_larger_buckets_and_logits_are_there_though_no_step_calls_them():
    recorded = step_programs(Deployment(MiMoConfig(), ParallelConfig(32, 4, 8), 16, 256, 128))
    called = {name for step in recorded.steps for name in step.calls}
    waiting = [name for name in recorded.programs if name not in called]
    logits = {name.split(", ")[1] for name in waiting if name.startswith("head of logits")}
    every = {f"{of} of 2 x {tokens} tokens" for of, tokens in ((2, 128), (2, 4), (8, 4), (2, 1))}
    assert logits == every
    capacity = {name.split(", ")[-1] for name in recorded.programs if name.startswith("experts")}
    assert len(capacity) == 3
    assert sum(name.startswith("experts") for name in waiting) == 2


def test_drafting_calls_each_head_and_what_it_needs_is_in_the_list():
    backend, sizes = XlaBackend(), (2, CONTEXT, CHUNK, "fp8", np.float32, np.float32)
    weights = random_weights(CONFIG, seed=0, mtp_heads=2)
    model = MiMoV2FlashModel(
        weights, CONFIG, backend=backend, max_step=CHUNK * 2, max_length=CONTEXT
    )
    cache, runner, end = model.new_cache(2, CONTEXT, mtp_heads=2), model.runner, 20
    token_BT, position_BT = np.ones((2, end), np.int32), np.tile(np.arange(end), (2, 1))
    model.greedy(token_BT, position_BT, cache, at=[[end - 1]] * 2)
    for output, head in product((runner.logits, runner.greedy_tokens), range(2)):
        for count in (1 + head, 3 + head):  # after a step that accepted no draft, or both
            start_B, at_B1 = np.full(2, end - count), np.full((2, 1), count - 1)
            step = Step(token_BT[:, -count:], start_B, np.full(2, count), at_B1)
            runner.draft(head, output, step, cache)
    counted = {"take hidden": 2, "head": 2, "MTP head + sliding attention + dense network": 2}
    plan = ParallelConfig(4, 2, 2)
    on_ranks = step_programs(Deployment(CONFIG, plan, *sizes, draft_tokens=2), decode_sizes)
    assert kinds_of(on_ranks.drafting) == counted
    assert [step[:2] for step in on_ranks.steps] == [(4, CONTEXT), (1, CONTEXT)]
    recorded = step_programs(Deployment(CONFIG, ParallelConfig(), *sizes, draft_tokens=2))
    listed = {content(called.traced) for called in recorded.programs.values()}
    assert {content(traced) for traced in backend.programs} <= listed
    assert kinds_of(recorded.drafting) == counted
    assert step_programs(Deployment(CONFIG, ParallelConfig(), *sizes)).drafting is None


def kinds_of(step) -> Counter:
    """Return how often a step calls programs of each kind."""
    counts = Counter[str]()
    for name, count in step.calls.items():
        counts[name.split(",")[0]] += count
    return counts
