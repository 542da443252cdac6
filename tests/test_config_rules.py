"""Validation errors of MiMoConfig: every rule for one field, or for two, names field and value."""

import math

import pytest

from mimo_v2_flash.config import MiMoConfig

COUNT, NUMBER, FLAG, KINDS, TOKENS = (
    "an integer above 0, below 2**31",
    "a finite number above 0",
    "True or False",
    "a tuple of zeros and ones",
    "None, an integer of at least 0, or a tuple of such integers",
)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("hidden_size", "4096", COUNT),
        ("hidden_size", 4096.0, COUNT),
        ("hidden_size", None, COUNT),
        ("head_dim", 2**31, "an integer above 0, below 2**31"),
        ("head_dim", 2**20 + 2, "at most 1,048,576"),
        ("hidden_size", 10**9, "at most 1,048,576"),
        ("n_routed_experts", 2**14 + 1, "at most 16,384"),
        ("vocab_size", 2**24 + 1, "at most 16,777,216"),
        ("vocab_size", 0, COUNT),
        ("num_hidden_layers", -1, COUNT),
        ("num_key_value_heads", 0, COUNT),
        ("num_experts_per_tok", True, COUNT),
        ("sliding_window", 0, COUNT),
        ("num_devices", 0, COUNT),
        ("layernorm_epsilon", 0.0, NUMBER),
        ("layernorm_epsilon", "1e-5", NUMBER),
        ("rope_theta", -1e4, NUMBER),
        ("rope_theta", 10**400, NUMBER),
        ("swa_rope_theta", 0, NUMBER),
        ("attention_value_scale", math.nan, NUMBER),
        ("attention_value_scale", math.inf, NUMBER),
        ("attention_value_scale", None, NUMBER),
        ("routed_scaling_factor", True, NUMBER),
        ("add_swa_attention_sink_bias", 1, FLAG),
        ("add_full_attention_sink_bias", "false", FLAG),
        ("hybrid_layer_pattern", [0] * 48, KINDS),
        ("hybrid_layer_pattern", (2,) * 48, KINDS),
        ("hybrid_layer_pattern", (True,) * 48, KINDS),
        ("hybrid_layer_pattern", (0,) * 47, "one number for each of num_hidden_layers = 48"),
        ("moe_layer_freq", (-1,) * 48, KINDS),
        ("moe_layer_freq", 1, KINDS),
        ("moe_layer_freq", (1,) * 49, "one number for each of num_hidden_layers = 48"),
        ("eos_token_id", -1, TOKENS),
        ("eos_token_id", (1, "2"), TOKENS),
        ("eos_token_id", (None,), TOKENS),
        ("num_attention_heads", 63, "a multiple of num_key_value_heads = 4"),
        ("swa_num_attention_heads", 4, "a multiple of swa_num_key_value_heads = 8"),
        ("num_experts_per_tok", 257, "at most n_routed_experts = 256"),
        ("partial_rotary_factor", 0.33, "at most 1, rotating whole pairs of head_dim = 192"),
        ("partial_rotary_factor", 0.005, "at most 1, rotating whole pairs of head_dim = 192"),
        ("partial_rotary_factor", 1.05, "at most 1, rotating whole pairs of head_dim = 192"),
        ("partial_rotary_factor", 1e308, "at most 1, rotating whole pairs of head_dim = 192"),
    ],
)
def test_a_refusal_names_field_value_and_what_is_allowed(field, value, allowed):
    with pytest.raises(ValueError, match=field) as refusal:
        MiMoConfig(**{field: value})
    assert str(refusal.value) == f"{field} = {value!r}: allowed is {allowed}"


def test_experts_must_divide_among_the_devices():
    with pytest.raises(ValueError, match=r"n_routed_experts = 256: .* multiple of num_devices = 7"):
        MiMoConfig(num_devices=7)


def test_the_rotary_width_of_sliding_layers_is_checked_too():
    with pytest.raises(ValueError, match=r"partial_rotary_factor = 0.334: .* swa_head_dim = 3"):
        MiMoConfig(swa_head_dim=3)


@pytest.mark.parametrize("eos", [None, 0, (151643, 151645)])
def test_an_end_of_sequence_may_be_none_one_or_several(eos):
    assert MiMoConfig(eos_token_id=eos).eos_token_id == eos


def test_bounds_that_are_allowed():
    config = MiMoConfig(sliding_window=1, num_experts_per_tok=256, partial_rotary_factor=1)
    assert config.layers[1].attention.window == 1
    assert config.layers[1].attention.rotary_dim == 192
