"""Programs are called what they are, and no two the same."""

import numpy as np
import pytest

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.cli.program_names import program_name, unique_names
from mimo_v2_flash.execution.program_recorder import RecordedProgram
from mimo_v2_flash.kernels.moe_block import AllToAllDispatcher
from mimo_v2_flash.layers.decoder import DecoderLayer
from mimo_v2_flash.layers.head import GreedyHead, LogitsHead
from mimo_v2_flash.parallel import SoloGroup

FULL, SLIDING = (
    DecoderLayer.build(MiMoConfig().layers[number], SoloGroup(), SoloGroup()) for number in (0, 1)
)
HEAD = GreedyHead(LogitsHead(1e-5), SoloGroup())
X_BTD = np.zeros((4, 1, 8))


def other_words(x):
    return x


def called(function, **given) -> RecordedProgram:
    return RecordedProgram(function, {"x_BTD": X_BTD} | given, None)


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (called(FULL, kv_length=256), "full attention + dense network, 4 x 1 tokens, 256 filled"),
        (called(SLIDING, kv_length=132), "sliding attention + experts, 4 x 1 tokens, 132 filled"),
        (
            called(SLIDING, dispatcher=AllToAllDispatcher(send_capacity=8, capacity=24)),
            "sliding attention + experts, 4 x 1 tokens, 8 slots, 24 seats",
        ),
        (called(SLIDING.attend, kv_length=132), "sliding attention, 4 x 1 tokens, 132 filled"),
        (
            called(SLIDING.feed_forward_block, dispatcher=AllToAllDispatcher(8, 24)),
            "experts, 4 x 1 tokens, 8 slots, 24 seats",
        ),
        (called(FULL.feed_forward_block), "dense network, 4 x 1 tokens"),
        (called(HEAD), "head, 4 x 1 tokens"),
        (called(HEAD, row_N=np.zeros(3)), "head, 3 of 4 x 1 tokens"),
        (called(HEAD.logits_head), "head of logits, 4 x 1 tokens"),
        (called(other_words), "other words, 4 x 1 tokens"),
    ],
)
def test_a_program_has_its_name(program, name):
    assert program_name(program) == name


def test_equal_names_are_numbered():
    programs = [called(HEAD), called(other_words), called(HEAD)]
    assert unique_names(programs)[2] == "head, 4 x 1 tokens (2)"
    assert len(set(unique_names(programs))) == 3
