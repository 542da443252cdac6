"""What MiMoConfig says of MiMo-V2-Flash, and which models it refuses."""

import dataclasses
import math

import pytest

from mimo_v2_flash.config import EVERYTHING, AttentionSpec, LayerSpec, MiMoConfig

FULL_LAYERS = {0, 5, 11, 17, 23, 29, 35, 41, 47}  # paper: 39 sliding layers and 9 global ones


def test_layers_of_mimo_v2_flash():
    layers = MiMoConfig().layers
    assert len(layers) == 48
    full = {i for i, layer in enumerate(layers) if layer.attention.window == EVERYTHING}
    assert full == FULL_LAYERS
    assert [i for i, layer in enumerate(layers) if not layer.experts] == [0]


def test_first_layer_is_full_and_dense():
    attention = AttentionSpec(
        heads=64,
        kv_heads=4,
        key_width=192,
        value_width=128,
        window=EVERYTHING,
        rotary_dim=64,
        rope_theta=5e6,
        value_scale=0.707,
        has_sink=False,
    )
    assert MiMoConfig().layers[0] == LayerSpec(
        attention=attention,
        hidden=4096,
        feed_forward=16384,
        experts=0,
        experts_per_token=0,
        routed_scaling_factor=1.0,
        norm_epsilon=1e-5,
    )


def test_second_layer_is_sliding_and_sparse():
    attention = AttentionSpec(
        heads=64,
        kv_heads=8,
        key_width=192,
        value_width=128,
        window=129,
        rotary_dim=64,
        rope_theta=1e4,
        value_scale=0.707,
        has_sink=True,
    )
    assert MiMoConfig().layers[1] == LayerSpec(
        attention=attention,
        hidden=4096,
        feed_forward=2048,
        experts=256,
        experts_per_token=8,
        routed_scaling_factor=1.0,
        norm_epsilon=1e-5,
    )


def test_forty_eight_layers_are_three_programs():
    layers = MiMoConfig().layers
    assert len(set(layers)) == 3
    assert layers[0] != layers[5] == layers[47] != layers[46] == layers[1]


def test_the_predictor_looks_like_a_sliding_layer_and_computes_like_the_dense_one():
    config = MiMoConfig()
    assert config.predictor.attention == config.layers[1].attention
    assert config.predictor == dataclasses.replace(
        config.layers[0], attention=config.layers[1].attention
    )


def test_every_number_of_a_kind_reaches_its_own_layers():
    """Distinct primes show a full layer's number that lands in a sliding one, and the reverse."""
    config = MiMoConfig(
        num_hidden_layers=2,
        hybrid_layer_pattern=(0, 1),
        moe_layer_freq=(1, 0),
        num_attention_heads=15,
        num_key_value_heads=5,
        head_dim=40,
        v_head_dim=11,
        rope_theta=13.0,
        add_full_attention_sink_bias=True,
        swa_num_attention_heads=14,
        swa_num_key_value_heads=7,
        swa_head_dim=24,
        swa_v_head_dim=17,
        swa_rope_theta=19.0,
        add_swa_attention_sink_bias=False,
        sliding_window=23,
        partial_rotary_factor=0.25,
        attention_value_scale=0.5,
        routed_scaling_factor=2.5,
    )
    full, sliding = (layer.attention for layer in config.layers)
    assert full == AttentionSpec(15, 5, 40, 11, EVERYTHING, 10, 13.0, 0.5, has_sink=True)
    assert sliding == AttentionSpec(14, 7, 24, 17, 23, 6, 19.0, 0.5, has_sink=False)
    assert [layer.routed_scaling_factor for layer in config.layers] == [2.5, 1.0]
    assert [layer.feed_forward for layer in config.layers] == [2048, 16384]


def test_the_rotary_width_is_truncated():
    # 8 x 0.34 = 2.72: rounding would give 3, which is refused as odd.
    config = MiMoConfig(head_dim=8, swa_head_dim=8, partial_rotary_factor=0.34)
    assert config.layers[0].attention.rotary_dim == 2


def test_experts_are_shared_by_the_devices():
    assert MiMoConfig(num_devices=32).experts_per_device == 8
    assert dataclasses.replace(MiMoConfig(), num_devices=4).experts_per_device == 64


def test_a_replaced_config_has_its_own_layers():
    config = MiMoConfig()
    assert config.layers[1].attention.window == 129  # computed, and kept, before the replacement
    narrow = dataclasses.replace(config, sliding_window=128)
    assert narrow.layers[1].attention.window == 128
    assert narrow != config


COUNT, NUMBER, FLAG, KINDS, TOKENS = (
    "an integer above 0",
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
