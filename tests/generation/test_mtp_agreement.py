"""mtp_agreement: the modules that were trained agree as often, window by window."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from mimo_v2_flash import load_model
from mimo_v2_flash.generation.likelihood import total_bits
from mimo_v2_flash.generation.mtp_agreement import mtp_agreement
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.text.tokenizer import load_tokenizer, tokens
from tests.support.shipped import FOLDER, shipped_oracle
from tests.support.shipped_heads import head_logits

LENGTH, BEGIN, HEADS = 256, 0, 3  # three chunks of the sliding window
TEXT = (FOLDER / "training" / "held_out.txt").read_text(encoding="utf-8")
UNDECIDED = 1e-4  # logits: two that differ by less may change places


@cache
def text_tokens(windows: int) -> list[int]:
    return tokens(load_tokenizer(Path(FOLDER)), TEXT[: windows * LENGTH * 8])[: windows * LENGTH]


def is_undecided(logits_TV: np.ndarray) -> np.ndarray:
    second_T, first_T = np.sort(logits_TV, axis=1)[:, -2:].T
    return first_T - second_T < UNDECIDED


@cache
def expected(windows: int) -> np.ndarray:
    """Return (agreed, predicted, undecided) of each head, by PyTorch."""
    counts_K3 = np.zeros((HEADS, 3), int)
    for start in range(0, windows * LENGTH, LENGTH):
        token_T = [BEGIN, *text_tokens(windows)[start : start + LENGTH]]
        with torch.no_grad():
            trunk_TV = shipped_oracle()(torch.tensor([token_T[:-1]]), use_cache=False).logits[0]
        for head, head_TV in enumerate(head_logits(token_T)):
            same_TV = trunk_TV[1 + head :].numpy()
            agreed_T = head_TV.argmax(axis=1) == same_TV.argmax(axis=1)
            undecided_T = is_undecided(head_TV) | is_undecided(same_TV)
            counts_K3[head] += [agreed_T.sum(), len(agreed_T), undecided_T.sum()]
    return counts_K3


@pytest.mark.parametrize(("windows", "max_step"), [(2, 512), (2, 100)])
def test_heads_agree_as_often_as_in_pytorch(windows, max_step):
    """Windows go side by side, or one by one, in passes that are shorter than a chunk."""
    model, sizes = load_model(FOLDER, max_step=max_step), []
    options = {"heads": HEADS, "length": LENGTH, "begin": BEGIN}
    bits, agreements = mtp_agreement(model, text_tokens(windows), advance=sizes.append, **options)
    for agreement, (agreed, predicted, undecided) in zip(
        agreements, expected(windows), strict=True
    ):
        assert agreement.predicted == predicted
        assert abs(agreement.agreed - agreed) <= undecided
        assert 0.3 < agreement.agreed / predicted < 0.7
    assert sum(sizes) == windows * LENGTH
    window = {"length": LENGTH, "begin": BEGIN}
    assert bits == pytest.approx(total_bits(model, text_tokens(windows), **window), rel=1e-6)


def test_all_ranks_get_the_same():
    options = {"heads": 2, "length": 40, "begin": BEGIN}
    token_T = text_tokens(1)[:80]
    bits, alone = mtp_agreement(load_model(FOLDER), token_T, **options)
    group = ThreadGroup(2)
    both = group.run(lambda _: mtp_agreement(load_model(FOLDER, group=group), token_T, **options))
    assert [each.predicted for each in alone] == [80 - 2, 80 - 4]
    assert both == [both[0]] * 2
    assert both[0][0] == pytest.approx(bits, rel=1e-5)
    differences = [one.agreed - two.agreed for one, two in zip(alone, both[0][1], strict=True)]
    assert np.abs(differences).max() <= 1


@pytest.mark.parametrize(
    ("heads", "length", "message"),
    [
        (4, 8, "draft_tokens is 4, but the model has 3 MTP heads"),
        (1, 0, r"length is 0, allowed is 1\.\.1024"),
    ],
)
def test_what_cannot_be_compared_is_refused(heads, length, message):
    with pytest.raises(ValueError, match=message):
        mtp_agreement(load_model(FOLDER), [1, 2], heads=heads, length=length, begin=BEGIN)


def test_a_window_of_one_token_compares_nothing():
    _, (agreement,) = mtp_agreement(load_model(FOLDER), [5, 6], heads=1, length=1, begin=BEGIN)
    assert agreement == (0, 0)
