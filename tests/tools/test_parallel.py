"""Steps in parts: their sequences, their loss and their gradients are those of the whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tools.test_train import SHAPE, new_trunk, write_conversations
from tools.train import packing, parallel, shape, trunk


def test_a_step_in_parts_has_the_loss_and_the_gradients_of_the_whole(tmp_path):
    small = replace(SHAPE, vocabulary=256, tokens=2048, length=256, conversations=40)
    texts = np.random.default_rng(0).integers(0, 256, 9000).astype(np.uint16)
    np.save(tmp_path / "train.npy", texts)
    write_conversations(tmp_path / "conversations.npz", [*range(30, 110, 2)])
    batches = packing.Batches(tmp_path, small, 1)
    results = []
    for parts in (1, parallel.PARTS):
        model = new_trunk(vocabulary=256)
        step = batches.of_step(3, parts)
        assert len(step) == parts
        loss = parallel.PartGradients(model).add(trunk.loss_of, step)
        tokens = sum(len(each.token_N) for each in step)
        assert all(router.take_load().sum() == 4 * tokens for router in model.routers())
        results.append((loss, [each.grad for each in model.parameters()]))
    (whole, gradients), (parts, of_parts) = results
    assert parts == pytest.approx(whole, rel=1e-5)
    for one, other in zip(gradients, of_parts, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * one.abs().max().item())


def test_the_parts_of_a_step_hold_its_sequences_in_about_equal_sizes(tmp_path):
    np.save(tmp_path / "train.npy", np.arange(40_000, dtype=np.uint16))
    write_conversations(tmp_path / "conversations.npz", [*range(100, 500, 4)])
    batches = packing.Batches(tmp_path, shape.SHAPES["small"], 1)
    (whole,), parts = batches.of_step(0), batches.of_step(0, 2)
    tokens = [torch.cat([each.next_N[each.counts_N] for each in side]) for side in ([whole], parts)]
    assert torch.equal(*(each.sort().values for each in tokens))
    sizes = [len(each.token_N) for each in parts]
    assert max(sizes) - min(sizes) <= packing.PART_ROUND
