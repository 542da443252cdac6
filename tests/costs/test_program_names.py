"""Programs have readable and unique names."""

import numpy as np
import pytest

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.costs.program_names import program_layers, program_name, unique_names
from mimo_v2_flash.execution.program_recorder import RecordedProgram
from mimo_v2_flash.kernels.moe_block import AllToAllDispatcher
from mimo_v2_flash.layers.decoder import DecoderLayer
from mimo_v2_flash.layers.forward_batch import AttentionMetadata, SequenceRun
from mimo_v2_flash.layers.head import GreedyHead, LogitsHead
from mimo_v2_flash.layers.layer_range import LayerRange
from mimo_v2_flash.layers.replicated_range import ReplicatedLayer, ReplicatedRange
from mimo_v2_flash.parallel import SoloGroup

FULL, SLIDING = (
    DecoderLayer.build(MiMoConfig().layers[number], SoloGroup(), SoloGroup()) for number in (0, 1)
)
RANGE = LayerRange((FULL, SLIDING, SLIDING), (0, 1, 1))
REPLICATED = ReplicatedRange(
    tuple(ReplicatedLayer(layer, SoloGroup(), 2) for layer in (FULL, SLIDING)), (0, 1)
)
HEAD = GreedyHead(LogitsHead(1e-5), SoloGroup())
X_ND = np.zeros((4, 8))


def other_function(x):
    return x


def metadata(kv_length: int) -> AttentionMetadata:
    run = SequenceRun(first_row=0, rows=4, tokens=1, kv_length=kv_length)
    return AttentionMetadata(None, None, None, None, slots=300, runs=(run,))


def recorded(function, **arguments) -> RecordedProgram:
    return RecordedProgram(function, {"x_ND": X_ND} | arguments, None)


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (
            recorded(FULL, metadata=metadata(256)),
            "full attention + dense network, 4 x 1 tokens, 256 filled",
        ),
        (
            recorded(SLIDING, metadata=metadata(132)),
            "sliding attention + experts, 4 x 1 tokens, 132 filled",
        ),
        (
            recorded(SLIDING, metadata=metadata(132), dispatcher=AllToAllDispatcher(8, 24)),
            "sliding attention + experts, 4 x 1 tokens, 132 filled, 8 slots, 24 seats",
        ),
        (
            recorded(SLIDING.attention_block, metadata=metadata(132)),
            "sliding attention, 4 x 1 tokens, 132 filled",
        ),
        (
            recorded(SLIDING.feed_forward_block, dispatcher=AllToAllDispatcher(8, 24)),
            "experts, 4 x 1 tokens, 8 slots, 24 seats",
        ),
        (recorded(FULL.feed_forward_block), "dense network, 4 x 1 tokens"),
        (
            recorded(RANGE, metadata=(metadata(256), metadata(132)), caches=()),
            "3 layers (1 full + 2 sliding), 4 x 1 tokens, 256 filled",
        ),
        (
            recorded(REPLICATED, metadata=(metadata(256), metadata(132)), caches=()),
            "2 replicated layers (1 full + 1 sliding), 4 x 1 tokens, 256 filled",
        ),
        (recorded(HEAD), "head, 4 x 1 tokens"),
        (recorded(HEAD, row_N=np.zeros(3)), "head, 3 of 4 x 1 tokens"),
        (recorded(HEAD.logits_head), "head of logits, 4 x 1 tokens"),
        (recorded(other_function), "other function, 4 x 1 tokens"),
    ],
)
def test_a_program_has_its_name(program, name):
    assert program_name(program, rows=4) == name


def test_tokens_are_those_of_each_sequence():
    assert program_name(recorded(HEAD), rows=2) == "head, 2 x 2 tokens"


def test_equal_names_are_numbered():
    programs = [recorded(HEAD), recorded(other_function), recorded(HEAD)]
    names = unique_names(programs, rows=4)
    assert names[2] == "head, 4 x 1 tokens (2)"
    assert len(set(names)) == 3


def test_a_range_is_its_layers_with_their_weights_and_caches():
    layers = program_layers(recorded(RANGE, metadata=(metadata(256), metadata(132)), caches=()))
    assert [layer.run.kv_length for layer in layers] == [256, 132, 132]
    assert [layer.prefixes for layer in layers] == [
        (f"weights.{index}.", f"caches.{index}.") for index in range(3)
    ]
    assert [layer.attention.spec.window < 1000 for layer in layers] == [False, True, True]
    (whole,) = program_layers(recorded(SLIDING, metadata=metadata(132)))
    assert (whole.prefixes, whole.run.kv_length) == (("",), 132)
    assert program_layers(recorded(HEAD)) == [(None, None, None, ("",))]
