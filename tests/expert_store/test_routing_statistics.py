"""Routing statistics: reuse and skew of traces whose numbers are known."""

import math

import numpy as np
import pytest

from mimo_v2_flash.expert_store.routing_statistics import choice_counts, routing_statistics
from mimo_v2_flash.expert_store.routing_trace import LayerCall, RoutingHeader, RoutingTrace


def trace_of(calls, layers=2, experts=20):
    header = RoutingHeader("m", None, None, False, list(range(layers)), [[1] * experts] * layers)
    return RoutingTrace(header, [LayerCall(n, d, np.array(ids)) for n, d, ids in calls])


def test_reuse_is_of_a_layers_previous_call():
    calls = [
        (0, False, [[0, 1], [2, 3]]),
        (1, False, [[9, 8], [9, 8]]),
        (0, True, [[2, 7]]),  # 2 of the prompt's: a half
        (1, True, [[0, 1]]),  # none
        (0, True, [[2, 7]]),  # all
        (1, True, [[1, 0]]),  # all
    ]
    statistics = routing_statistics(trace_of(calls))
    assert statistics.reuse == (0.5 + 0 + 1 + 1) / 4
    assert (statistics.tokens, statistics.calls, statistics.decode_calls) == (4, 6, 4)
    assert (statistics.experts, statistics.chosen_experts) == (40, 5 + 4)


def test_counts_are_of_tokens():
    count_LE = choice_counts(trace_of([(0, False, [[0, 1], [0, 2]]), (1, True, [[0, 19]])]))
    assert count_LE[0, :3].tolist() == [2, 1, 1]
    assert count_LE[1, [0, 19]].tolist() == [1, 1]
    assert count_LE.sum() == 6


@pytest.mark.parametrize(("ids", "share"), [(range(20), 0.1), ([3] * 10 + [4] * 6 + [5] * 4, 0.8)])
def test_the_top_tenth_is_two_of_twenty(ids, share):
    calls = [(layer, True, [[expert]]) for expert in ids for layer in (0, 1)]
    assert routing_statistics(trace_of(calls)).top_tenth == pytest.approx(share)


def test_without_decoding_there_is_no_reuse():
    assert math.isnan(routing_statistics(trace_of([(0, False, [[0, 1]])])).reuse)
