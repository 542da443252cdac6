"""The list of a deployment's programs holds every one that real runs need, and counts them."""

import re
from dataclasses import replace

import numpy as np
import pytest

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel
from mimo_v2_flash.groups import ThreadGroup
from mimo_v2_flash.plan import Plan
from mimo_v2_flash.weights.random_weights import random_weights
from tests.support.config_files import SMALL

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytest.importorskip("jax").config.update("jax_num_cpu_devices", 32)
pytestmark = pytest.mark.nkipy

from mimo_v2_flash.backends.xla import XlaBackend  # noqa: E402
from mimo_v2_flash.commands.step_programs import Deployment, step_programs  # noqa: E402

CONTEXT, CHUNK = 300, 8
CONFIG = replace(SMALL, num_key_value_heads=2, swa_num_key_value_heads=4, intermediate_size=256)


def content(traced) -> bytes:
    return traced.module.SerializeToString(deterministic=True)


@pytest.mark.parametrize("plan", [Plan(), Plan(2, 2, 1), Plan(2, 1, 2)], ids=str)
def test_what_a_run_needs_is_in_the_list(plan):
    """A prompt in chunks, one token, one and three drafts, each with few and with many filled."""
    group = ThreadGroup(plan.world)
    backend = XlaBackend(group if plan.world > 1 else None)
    weights = random_weights(CONFIG, seed=0)

    def run(_: int) -> None:
        options = {"backend": backend, "group": group, "plan": plan, "max_step": CHUNK}
        model = MiMoV2FlashModel(weights, CONFIG, **options)
        cache = model.new_cache(2, CONTEXT)
        for start, tokens, wanted in ((0, 264, [263]), (264, 1, [0]), (265, 4, range(4))):
            position_BT = np.broadcast_to(np.arange(start, start + tokens), (2, tokens))
            logits_at = np.broadcast_to(wanted, (2, len(wanted)))
            model.step(np.ones((2, tokens), int), position_BT, cache, logits_at=logits_at)
            model.step(position_BT * 0, np.full((2, tokens), -1), cache, logits_at=logits_at)

    group.run(run)
    deployment = Deployment(CONFIG, plan, 2, CONTEXT, CHUNK, cache=np.float32)
    listed = {content(called.traced) for called in step_programs(deployment).programs.values()}
    needed = {content(traced) for traced in backend.programs}
    assert needed <= listed
    assert len(needed) > 6


def test_every_step_of_the_real_model_is_there_and_calls_every_layer():
    found = step_programs(Deployment(MiMoConfig(), Plan(32, 4, 8), 16, 1000, 128))
    assert [(step.tokens, step.filled) for step in found.steps] == [
        (tokens, filled) for tokens in (128, 4, 1) for filled in (256, 512, 1000)
    ]
    for tokens, filled, calls in found.steps:
        layers = {
            f"full attention + dense network, 2 x {tokens} tokens, {filled} filled": 1,
            f"full attention + experts, 2 x {tokens} tokens, {filled} filled": 8,
            f"sliding attention + experts, 2 x {tokens} tokens, 132 filled": 39,
        }
        assert layers.items() <= calls.items()
        assert set(calls) <= set(found.programs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 12}, "batch_size = 12: allowed is a multiple of the 8 shares"),
        ({"batch_size": 0}, "batch_size = 0: allowed is a multiple of the 8 shares"),
        ({"context": 300_000}, "context = 300000: allowed is 1 to 262144 tokens"),
        ({"chunk": 5000}, "chunk = 5000: allowed is 1 to the context, 4096"),
        ({"chunk": 0}, "chunk = 0: allowed is 1 to the context, 4096"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    deployment = Deployment(MiMoConfig(), Plan(32, 4, 8), **{"batch_size": 8} | changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        step_programs(deployment)
