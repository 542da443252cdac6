"""Conflicts in a config.json with both spellings: transformers' value is used, with a warning."""

import re

import pytest

from mimo_v2_flash.config import MiMoConfig
from tests.support.config_files import SAVED, SMALL, load, without, written


@pytest.mark.parametrize(
    ("changes", "first", "second"),
    [
        ({"layernorm_epsilon": 1e-5}, "rms_norm_eps gives 1e-06", "layernorm_epsilon gives 1e-05"),
        (
            {"hybrid_layer_pattern": [0, 1]},
            "layer_types gives (1, 0)",
            "hybrid_layer_pattern gives (0, 1)",
        ),
        ({"moe_layer_freq": [1, 1]}, "mlp_layer_types gives (1, 0)", "moe_layer_freq gives (1, 1)"),
        (
            {"rope_theta": 5},
            "rope_parameters.full_attention.rope_theta gives 700.0",
            "rope_theta gives 5",
        ),
        (
            {"swa_rope_theta": 5},
            "rope_parameters.sliding_attention.rope_theta gives 30.0",
            "swa_rope_theta gives 5",
        ),
        (
            {"partial_rotary_factor": 1},
            "rope_parameters.full_attention.partial_rotary_factor gives 0.5",
            "partial_rotary_factor gives 1",
        ),
        ({"sliding_window_size": 128}, "sliding_window gives 5", "sliding_window_size gives 129"),
        (
            {"swa_num_key_value_heads": 3},
            "num_key_value_heads gives 6",
            "swa_num_key_value_heads gives 3",
        ),
        (
            {"swa_num_attention_heads": 6},
            "num_attention_heads gives 12",
            "swa_num_attention_heads gives 6",
        ),
        ({"swa_head_dim": 8}, "head_dim gives 24", "swa_head_dim gives 8"),
        ({"swa_v_head_dim": 8}, "v_head_dim gives 16", "swa_v_head_dim gives 8"),
        (
            {"add_swa_attention_sink_bias": False},
            "layer_types gives True",
            "add_swa_attention_sink_bias gives False",
        ),
        (
            {"add_full_attention_sink_bias": True},
            "layer_types gives False",
            "add_full_attention_sink_bias gives True",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_transformers_spelling_wins_with_a_warning(tmp_path, changes, first, second):
    conflict = re.escape(f": conflicting values: {first}, {second}; using {first.split()[0]}")
    with pytest.warns(UserWarning, match=conflict) as warned:
        config = MiMoConfig.from_pretrained(written(tmp_path, SAVED | changes))
    assert config == SMALL
    (warning,) = warned
    assert warning.filename == __file__  # the caller's line, not this package's


def test_every_conflict_has_its_own_warning(tmp_path):
    with pytest.warns(UserWarning, match="rope_theta|layernorm_epsilon") as warned:
        config = load(tmp_path, SAVED | {"rope_theta": 5, "layernorm_epsilon": 1e-3})
    assert config == SMALL
    assert len(warned) == 2


def test_two_spellings_that_agree_are_no_conflict(tmp_path):
    agreeing = without(SMALL.to_dict(), "sliding_window", "rope_scaling")
    hub_window = {"sliding_window": 4}  # beside sliding_window_size = 4
    assert load(tmp_path, SAVED | agreeing) == SMALL
    assert load(tmp_path, SAVED | agreeing | hub_window) == SMALL
