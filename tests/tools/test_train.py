"""Training of the checkpoints: model, losses, optimizer, packing, resumption and MTP heads."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tools.train import (
    attention,
    experts,
    heads,
    loss,
    optimizer,
    packing,
    publish,
    schedule,
    shape,
    text_quality,
    trunk,
)

SHAPE = replace(shape.SHAPES["small"], layers="FSS", hidden=64, dense_width=96, expert_width=32)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def new_trunk(**changes):
    """Return a small trunk whose sinks and selection biases matter."""
    model = trunk.new_model(replace(SHAPE, **changes))
    for name, value in model.state_dict().items():
        if name.endswith(("sinks", "correction_bias")):
            nn.init.normal_(value)
    return model


def drawn(lengths, vocabulary=SHAPE.vocabulary):
    """Return drawn sequences of so many inputs."""
    generator = np.random.default_rng(1)
    tokens = [generator.integers(vocabulary, size=length + 1) for length in lengths]
    return [(each, np.ones(len(each), bool)) for each in tokens]


@pytest.mark.parametrize("layers", ["FSS", "SFS", "SSFF"])
def test_packed_segments_have_transformers_logits_and_gradients(layers):
    model = new_trunk(layers=layers)
    oracle = publish.transformers_model(model)
    sequences = drawn([192, 320, 64])
    batch = packing.pack(sequences, 640)  # the last 64 are padding
    hidden = model(batch.token_N, batch.segments)
    logits = model.lm_head(model.normed(hidden))
    ours = functional.cross_entropy(logits[batch.counts_N], batch.next_N[batch.counts_N])
    ours.backward()
    alone, losses = [], []
    for tokens, _ in sequences:
        token = torch.from_numpy(tokens)
        alone.append(oracle(token[None, :-1], use_cache=False).logits[0])
        losses.append(functional.cross_entropy(alone[-1], token[1:], reduction="sum"))
    expected = torch.cat(alone)
    (sum(losses) / len(expected)).backward()
    tolerance = {"rtol": 0, "atol": 1e-5 * np.ptp(expected.detach().numpy())}
    torch.testing.assert_close(logits[: len(expected)], expected, **tolerance)
    named = dict(oracle.named_parameters())
    for name, parameter in model.named_parameters():
        size = named[name].grad.abs().max().item()
        torch.testing.assert_close(parameter.grad, named[name].grad, rtol=0, atol=2e-4 * size)


def test_segments_are_whole_blocks():
    with pytest.raises(ValueError, match="130 tokens: expected a multiple of 128"):
        attention.Segments([130])


def test_the_loss_without_logits_is_pytorchs():
    x, w = (torch.randn(n, 24, requires_grad=True) for n in (1030, 50))
    target = torch.randint(50, (1030,))
    ours = loss.linear_cross_entropy(x, w, target)
    expected = functional.cross_entropy(x @ w.T, target)
    torch.testing.assert_close(ours, expected)
    gradients = (torch.autograd.grad(each, (x, w)) for each in (ours, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_matrices_of_one_shape_are_updated_as_by_pytorchs_muon():
    torch.manual_seed(0)
    matrices = [nn.Parameter(torch.randn(6, 10)) for _ in range(3)]
    copies = [nn.Parameter(each.detach().clone()) for each in matrices]
    ours = optimizer.MuonAdamW(
        nn.ParameterList([torch.stack(copies[:2]), copies[2], torch.ones(3)])
    )
    torchs = torch.optim.Muon(
        matrices, lr=0.01, weight_decay=optimizer.DECAY, adjust_lr_fn="match_rms_adamw"
    )
    stacked, single, vector = ours._parameters
    for _ in range(3):
        gradients = [0.01 * torch.randn(6, 10) for _ in matrices]  # so small that nothing is cut
        for each, gradient in zip(matrices, gradients, strict=True):
            each.grad = gradient.clone()
        vector.grad = torch.zeros(3)
        stacked.grad, single.grad = torch.stack(gradients[:2]), gradients[2].clone()
        torchs.step()
        ours.update(0.01)
    updated = [*stacked.detach(), single.detach()]
    for one, other in zip(updated, matrices, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=0, atol=1e-3)
    assert not torch.allclose(stacked[0], single)


def test_an_expert_with_more_than_its_share_becomes_harder_to_choose():
    model = new_trunk()
    batch = packing.pack(drawn([256]), 256)
    before = [each.e_score_correction_bias.clone() for each in model.routers()]
    model(batch.token_N, batch.segments)
    for router, bias in zip(model.routers(), before, strict=True):
        assert router.take_load().sum() == 256 * 4
        router.balance(1e-3)
        step = (router.e_score_correction_bias - bias).sign()
        assert torch.equal(step, (router.load_E.mean() - router.load_E).sign())


def test_every_choice_of_a_token_has_a_seat_of_its_own():
    index = torch.stack([torch.randperm(16)[:4] for _ in range(70)])
    token_S, seat_NK, rooms = experts.seats(index, 16)
    assert sum(rooms) == len(token_S)
    assert len(seat_NK.unique()) == index.numel()
    assert torch.equal(token_S[seat_NK], torch.arange(70)[:, None].expand(-1, 4))
    ends = torch.tensor(rooms).cumsum(0)
    assert torch.equal(torch.searchsorted(ends, seat_NK, right=True), index)


def test_every_epoch_reads_the_text_once_in_another_order(tmp_path):
    np.save(tmp_path / "text.npy", np.arange(20 * 64, dtype=np.uint16))
    text = packing.Windows(tmp_path / "text.npy", rows=3, length=64, seed=1)
    epochs = []
    for epoch in range(2):
        steps = range(epoch * text.steps_per_epoch, (epoch + 1) * text.steps_per_epoch)
        sequences = [each for step in steps for each, _ in text.of_step(step)]
        assert all(each[0] == 0 and len(each) == 65 for each in sequences)
        seen = np.concatenate([each[1:] for each in sequences])
        assert len(seen) == len(np.unique(seen)) == text.steps_per_epoch * 3 * 64
        epochs.append(seen)
    assert not np.array_equal(*epochs)


def write_conversations(file, lengths):
    """Write conversations, each of one token that is its number; every other token counts."""
    np.savez(
        file,
        token=np.repeat(np.arange(len(lengths)), lengths).astype(np.uint16),
        counts=np.arange(sum(lengths)) % 2 == 0,
        start=np.cumsum(lengths) - lengths,
    )


def test_every_epoch_has_each_conversation_once_and_no_step_too_many(tmp_path):
    lengths = np.random.default_rng(0).integers(2, 300, 50)
    write_conversations(tmp_path / "conversations.npz", lengths)
    room = 640
    chats = packing.Conversations(tmp_path / "conversations.npz", room, seed=1)
    seen, step = [], 0
    while len(seen) < 100:
        sequences = chats.of_step(step)
        sizes = (-(-(len(token) - 1) // packing.ROUND) for token, _ in sequences)
        assert sum(sizes) <= room // packing.ROUND
        for token, counts in sequences:
            assert len(token) == len(counts) == lengths[token[0]]
            assert len(set(token)) == 1
            seen.append(token[0])
        step += 1
    assert sorted(seen[:50]) == sorted(seen[50:100]) == list(range(50))
    assert seen[:50] != seen[50:100]


def test_padding_is_a_segment_that_does_not_count():
    batch = packing.pack(drawn([40, 100]), 384)
    assert batch.segments.lengths == [64, 128, 192]
    assert batch.counts_N.sum() == 140
    assert torch.all(batch.counts_N[:40])
    assert not torch.any(batch.counts_N[40:64])
    assert not torch.any(batch.counts_N[192:])


@pytest.mark.parametrize("until", [0.0, 5.0])
def test_a_trunk_that_was_stopped_ends_as_if_it_had_not_been(tmp_path, until):
    small = replace(SHAPE, vocabulary=256, tokens=512, length=128, conversations=40)
    texts = np.random.default_rng(0).integers(0, 256, 9000).astype(np.uint16)
    for name in ("whole", "parts"):
        work = tmp_path / name
        work.mkdir()
        np.save(work / "train.npy", texts)
        np.save(work / "held_out.npy", texts[:300])
        write_conversations(work / "conversations.npz", [50] * 40)
    budget = schedule.Budget(warm_up=2, steps=4)
    trunk.train(tmp_path / "whole", small, budget)
    trunk.train(tmp_path / "parts", small, budget, until)
    trunk.train(tmp_path / "parts", small, budget)
    one, other = (trunk.load(tmp_path / name, small).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    heads.train(tmp_path / "whole", small, budget)
    logs = {path.stem: path.read_text() for path in (tmp_path / "whole").glob("*.jsonl")}
    assert json.loads(logs["trunk"])["step"] == json.loads(logs["heads"])["step"] == 4


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
        training = schedule.TrainingRun(tmp_path / name, toy, schedule.Budget(10, 200))
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


@pytest.mark.parametrize("stops_at", [None, 7, 30])
def test_measured_speed_chooses_a_length_that_ends_in_time(tmp_path, stops_at):
    """A step takes 6 seconds by the clock: 10 minutes are 100 steps, chosen after a minute."""
    torch.manual_seed(0)
    toy, now = Toy(), [0.0]

    def run(until):
        budget = schedule.Budget(warm_up=5, minutes=10)
        training = schedule.TrainingRun(tmp_path / "run", toy, budget, lambda: now[0])
        rates = []
        for step in training.steps(until):
            toy(step).backward()
            now[0] += 6
            rates.append(training._rate(step))
        return training, rates

    training, rates = run(float("inf") if stops_at is None else 6.0 * stops_at)
    if stops_at is not None:
        training, later = run(float("inf"))
        rates += later
    assert len(rates) == training.length
    assert training.seconds == pytest.approx(600)
    assert len(rates) == 100
    assert rates[0] < rates[5] == max(rates) > rates[-1] > 0
    assert rates[-1] < 0.03 * max(rates)
    falling = rates[rates.index(max(rates)) :]
    assert falling == sorted(falling, reverse=True)


def test_mtp_heads_predict_later_tokens_of_the_trunk():
    model = new_trunk().eval().requires_grad_(False)
    mtp_heads = heads.new_heads(model.config)
    batch = packing.pack(drawn([256, 128]), 384)
    drafts = list(heads.draft_logits(mtp_heads, model, batch))
    trunk_logits = model.lm_head(model.normed(model(batch.token_N, batch.segments)))
    for index, (draft, target) in enumerate(drafts):
        first, second = trunk_logits[index + 1 : 256], trunk_logits[256 + index + 1 :]
        assert torch.equal(target, torch.cat([first, second]))
        assert draft.shape == target.shape
    batch.next_N[100] += 1  # the token after the hundredth
    for index, (before, after) in enumerate(
        zip(drafts, heads.draft_logits(mtp_heads, model, batch), strict=True)
    ):
        differs = (before[0] != after[0]).any(-1).nonzero().flatten()
        assert differs[0] == 100 - index  # head k reads the token k + 1 later


def test_mtp_heads_have_the_names_of_the_hub():
    names = set(publish.hub_names(heads.new_heads(SHAPE.configuration())))
    assert len(names) == 3 * 14  # without scales, which six of them have
    assert {name for name in names if name.startswith("model.mtp.layers.2.self_attn.")} == {
        f"model.mtp.layers.2.self_attn.{part}"
        for part in (*(f"{each}_proj.weight" for each in "qkvo"), "attention_sink_bias")
    }


def test_bits_of_a_text_are_those_of_its_windows():
    model = new_trunk()
    tokens = np.random.default_rng(0).integers(0, 99, 200)
    nats, loads = text_quality.total_nats(model, np.split(tokens, [150]))
    oracle, expected = publish.transformers_model(model), 0.0
    for window in np.split(tokens, [150]):
        inputs = torch.tensor([[0, *window[:-1]]])
        with torch.no_grad():
            logits = oracle(inputs, use_cache=False).logits[0]
        expected += functional.cross_entropy(logits, torch.tensor(window), reduction="sum").item()
    assert nats == pytest.approx(expected, rel=1e-5)
    assert len(loads) == 2


@pytest.mark.parametrize(("name", "millions"), [("tiny", 8.8), ("small", 26.6)])
def test_shapes_have_their_sizes(name, millions):
    model = trunk.new_model(shape.SHAPES[name])
    parameters = sum(each.numel() for each in model.parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=0.06)
