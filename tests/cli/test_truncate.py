"""A truncated config has the first layers of the model; nothing else changes."""

from dataclasses import replace

import pytest

from mimo_v2_flash.cli.truncate import truncate_layers
from mimo_v2_flash.config import MiMoConfig

WHOLE = MiMoConfig()


def test_the_layers_are_the_first_of_the_whole():
    assert truncate_layers(WHOLE, 7).layers == WHOLE.layers[:7]


def test_nothing_else_changes():
    restored = {
        name: getattr(WHOLE, name)
        for name in ("num_hidden_layers", "hybrid_layer_pattern", "moe_layer_freq")
    }
    assert replace(truncate_layers(WHOLE, 3), **restored) == WHOLE


@pytest.mark.parametrize("count", [-1, 0, 49])
def test_more_layers_than_there_are_is_refused(count):
    with pytest.raises(ValueError, match=rf"--num-layers {count} is not in 1\.\.48"):
        truncate_layers(WHOLE, count)
