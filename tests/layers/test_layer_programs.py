"""layer_programs: the feed-forward block runs again until nothing overflows, attention once."""

import numpy as np
import pytest

from mimo_v2_flash.layers.layer_programs import LayerPrograms


@pytest.mark.parametrize(("overflows", "runs"), [([0], 1), ([3, 0, 0], 2), ([1, 1, 0], 3)])
def test_dispatchers_are_tried_in_turn_and_the_cache_is_written_once(overflows, runs):
    calls: list = []

    def attend(x_ND, metadata, cache, norm_D, weights):
        calls.append("attention")
        return x_ND + 1

    def feed_forward(x_ND, position_N, rank_ids, norm_D, weights, *, dispatcher):
        calls.append(dispatcher)
        return x_ND * 10 + dispatcher, np.array([overflows[dispatcher]])

    class Part:
        position_N = attention_norm_D = attention = feed_forward_norm_D = feed_forward = None

    programs = LayerPrograms(lambda: None, attend, feed_forward)
    x_ND = np.zeros((2, 3), np.float32)
    dispatchers = tuple(range(len(overflows)))
    y_ND = programs.run_blocks(x_ND, Part, None, None, Part, dispatchers=dispatchers)
    assert calls == ["attention", *range(runs)]
    np.testing.assert_array_equal(y_ND, np.full((2, 3), 10 + runs - 1))
