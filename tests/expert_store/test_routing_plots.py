"""Plots of recorded routing say what they show, and whether the routing is MiMo's."""

import re

import numpy as np

from mimo_v2_flash.expert_store.routing_plots import draw_heat_map, draw_hit_curves
from mimo_v2_flash.expert_store.routing_trace import LayerCall, RoutingHeader, RoutingTrace
from mimo_v2_flash.expert_store.simulator import POOLS, simulate

HEADER = RoutingHeader("m", None, None, False, [3, 8], [[1] * 4] * 2)
TRACE = RoutingTrace(HEADER, [LayerCall(n % 2, True, np.array([[n % 3]])) for n in range(12)])


def texts(path):
    return set(re.findall(r">([^<>\n]+)</text>", path.read_text()))


def test_a_hit_curve_names_policies_and_pools(tmp_path):
    results = [simulate(TRACE, "lru", size, pool) for size in (2, 4, 8) for pool in POOLS]
    draw_hit_curves(results, 8, "some title", tmp_path / "hits.svg")
    words = texts(tmp_path / "hits.svg")
    assert {"some title", "lru, global", "lru, per-layer", "equal odds"} <= words
    assert {"budget, % of all experts' bytes"} <= words or any("budget" in each for each in words)


def test_a_heat_map_has_the_models_layers(tmp_path):
    draw_heat_map(TRACE, "some title", tmp_path / "heat.svg")
    assert {"some title", "expert", "layer", "3", "8"} <= texts(tmp_path / "heat.svg")
    draw_heat_map(TRACE, "some title", tmp_path / "again.svg")
    assert (tmp_path / "again.svg").stat().st_size > 1000
