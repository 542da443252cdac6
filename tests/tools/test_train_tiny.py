"""Training of the tiny checkpoint: text, attention, load balance, resumption and MTP heads."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import MiMoV2FlashForCausalLM

from tools.train_tiny import attention, corpus, heads, publish, schedule, shape, trunk, windows

PAGE = """:mod:`heapq` --- Queues
======================

.. module:: heapq
   :synopsis: Heaps.

.. versionadded:: 3.1
   See :func:`~heapq.merge` and :ref:`the *list* <more>`.

.. function:: heappush(heap, item)

   Push *item* onto ``heap[0]``::

      a * b * c
"""
PROSE = """heapq --- Queues

Version 3.1
   See heapq.merge and the list.

function heappush(heap, item)

   Push item onto heap[0]:

      a * b * c
"""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_markup_is_read_as_prose():
    assert corpus.prose(PAGE) == PROSE


def test_documents_are_split_by_name_alone(tmp_path):
    for index in range(100):
        (tmp_path / f"{index}.rst.txt").write_text(f"page {index}\n")
    train, held_out = corpus.split(tmp_path)
    assert len(train) + len(held_out) == 100
    assert 0 < len(held_out) < 20
    with pytest.raises(ValueError, match=r"has no \*\.rst\.txt"):
        corpus.split(tmp_path / "nowhere")


def test_the_fast_attention_equals_that_of_transformers():
    fast = trunk.new_model().eval()
    plain = MiMoV2FlashForCausalLM._from_config(
        shape.configuration(), attn_implementation="eager"
    ).eval()
    plain.load_state_dict(fast.state_dict())
    for model in (fast, plain):
        for name, parameter in model.named_parameters():
            if name.endswith("sinks"):
                nn.init.constant_(parameter, 1.5)
    token = torch.randint(shape.configuration().vocab_size, (2, 384))
    with torch.no_grad():
        one, other = (model(token, use_cache=False).logits for model in (fast, plain))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * np.ptp(other.numpy()))


def test_the_fast_attention_refuses_unsupported_inputs():
    q = torch.zeros(1, 8, 130, 192)
    with pytest.raises(ValueError, match="attention_mask must be None"):
        attention.attend(None, q, q, q, torch.zeros(1), scaling=1.0)
    with pytest.raises(ValueError, match="130 tokens: expected a multiple of 128"):
        attention.attend(None, q, q, q, None, scaling=1.0, sliding_window=129, s_aux=q[0, :, 0, 0])


def test_an_expert_with_more_than_its_share_becomes_harder_to_choose():
    model = trunk.new_model()
    with trunk.loads_of(model) as loads, torch.no_grad():
        model(torch.randint(4096, (1, 256)), use_cache=False)
    assert len(loads) == 5
    assert all(load.sum() == 256 * 4 for load in loads)
    trunk.balance(model, loads)
    for router, load in zip(trunk.routers(model), loads, strict=True):
        step = router.e_score_correction_bias.sign()
        assert torch.equal(step, (load.mean() - load).sign())


def test_every_epoch_reads_the_text_once_in_another_order(tmp_path):
    np.save(tmp_path / "text.npy", np.arange(20 * shape.LENGTH, dtype=np.uint16))
    text = windows.Windows(tmp_path / "text.npy", rows=3, seed=1)
    epochs = []
    for epoch in range(2):
        steps = range(epoch * text.steps_per_epoch, (epoch + 1) * text.steps_per_epoch)
        pairs = [text.of_step(step) for step in steps]
        for inputs, target in pairs:
            assert torch.all(inputs[:, 0] == 0)
            assert torch.equal(inputs[:, 1:], target[:, :-1])
        seen = torch.cat([target.flatten() for _, target in pairs])
        assert len(seen) == len(seen.unique()) == text.steps_per_epoch * 3 * shape.LENGTH
        epochs.append(seen)
    assert not torch.equal(*epochs)


class Toy(nn.Module):
    """A model with a matrix, a stack of matrices and a vector."""

    def __init__(self):
        super().__init__()
        self.matrix, self.stack, self.vector = (
            nn.Parameter(torch.randn(*shape)) for shape in ((4, 5), (3, 4, 5), (5,))
        )

    def forward(self, step):
        """Return a loss."""
        x = torch.linspace(-1, 1 + step, 5) * self.vector
        return (self.matrix @ x).square().sum() + (self.stack @ x).square().sum()


@pytest.mark.parametrize("stops_at", [100, 137, 200])
def test_an_interrupted_training_ends_as_if_it_had_not_been(tmp_path, stops_at):
    def run(name, until):
        torch.manual_seed(0)
        toy = Toy()
        training = schedule.TrainingRun(tmp_path / name, toy, warm_up=10, length=200)
        for step in training.steps():
            if step == until:
                break
            loss = toy(step)
            loss.backward()
            if step % 50 == 49:
                training.log(step, loss=loss.item())
        return toy

    begun, whole = Toy(), run("whole", None)
    run("parts", stops_at)
    parts = run("parts", None)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name])
        assert not torch.equal(value, begun.state_dict()[name])
    logs = [(tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    one, other = ([json.loads(line) | {"seconds": 0} for line in log] for log in logs)
    assert one == other
    assert [line["step"] for line in one] == [50, 100, 150, 200]


def test_mtp_heads_predict_later_tokens_of_the_trunk():
    model = trunk.new_model().eval().requires_grad_(False)
    mtp_heads = heads.new_heads(model)
    token = torch.randint(4095, (1, 257))
    inputs, targets = token[:, :256], token[:, 1:]
    drafts = heads.draft_logits(mtp_heads, model, inputs, targets)
    trunk_logits = model(inputs, use_cache=False).logits
    for index, (draft, target) in enumerate(drafts):
        assert draft.shape == target.shape == (1, 255 - index, 4096)
        assert torch.equal(target, trunk_logits[:, index + 1 :])
    changed = targets.clone()
    changed[:, 100] += 1  # the token after the hundredth
    for index, (before, after) in enumerate(
        zip(drafts, heads.draft_logits(mtp_heads, model, inputs, changed), strict=True)
    ):
        differs = (before[0] != after[0]).any(-1)[0].nonzero().flatten()
        assert differs[0] == 100 - index  # head k reads the token k + 1 later


def test_mtp_heads_have_the_names_of_the_hub():
    names = set(publish.hub_names(heads.new_heads(trunk.new_model())))
    assert len(names) == 3 * 14  # without scales, which six of them have
    assert {name for name in names if name.startswith("model.mtp.layers.2.self_attn.")} == {
        f"model.mtp.layers.2.self_attn.{part}"
        for part in (*(f"{each}_proj.weight" for each in "qkvo"), "attention_sink_bias")
    }
