"""MiMoConfig: its defaults, layers, MTP layer, devices, and round trip through config.json."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.config import NO_WINDOW, AttentionSpec, LayerSpec, MiMoConfig
from tests.support.config_files import HUB, load

FULL_LAYERS = {0, 5, 11, 17, 23, 29, 35, 41, 47}  # paper: 39 sliding layers and 9 global ones


def test_layers_of_mimo_v2_flash():
    layers = MiMoConfig().layers
    assert len(layers) == 48
    full = {i for i, layer in enumerate(layers) if layer.attention.window == NO_WINDOW}
    assert full == FULL_LAYERS
    assert [i for i, layer in enumerate(layers) if not layer.num_experts] == [0]


def test_first_layer_is_full_and_dense():
    attention = AttentionSpec(
        num_heads=64,
        num_kv_heads=4,
        head_dim=192,
        v_head_dim=128,
        window=NO_WINDOW,
        rotary_dim=64,
        rope_theta=5e6,
        value_scale=0.707,
        has_sink=False,
    )
    assert MiMoConfig().layers[0] == LayerSpec(
        attention=attention,
        hidden_size=4096,
        intermediate_size=16384,
        num_experts=0,
        experts_per_token=0,
        routed_scaling_factor=1.0,
        norm_epsilon=1e-5,
    )


def test_second_layer_is_sliding_and_sparse():
    attention = AttentionSpec(
        num_heads=64,
        num_kv_heads=8,
        head_dim=192,
        v_head_dim=128,
        window=129,
        rotary_dim=64,
        rope_theta=1e4,
        value_scale=0.707,
        has_sink=True,
    )
    assert MiMoConfig().layers[1] == LayerSpec(
        attention=attention,
        hidden_size=4096,
        intermediate_size=2048,
        num_experts=256,
        experts_per_token=8,
        routed_scaling_factor=1.0,
        norm_epsilon=1e-5,
    )


def test_forty_eight_layers_are_three_programs():
    layers = MiMoConfig().layers
    assert len(set(layers)) == 3
    assert layers[0] != layers[5] == layers[47] != layers[46] == layers[1]


def test_the_mtp_layer_attends_like_a_sliding_layer_and_computes_like_the_dense_one():
    config = MiMoConfig()
    assert config.mtp_layer.attention == config.layers[1].attention
    assert config.mtp_layer == dataclasses.replace(
        config.layers[0], attention=config.layers[1].attention
    )


def test_predictor_is_a_deprecated_name_of_the_mtp_layer():
    config = MiMoConfig()
    message = r"^MiMoConfig\.predictor is now MiMoConfig\.mtp_layer$"
    with pytest.warns(DeprecationWarning, match=message) as caught:
        layer = config.predictor
    assert layer == config.mtp_layer
    assert [warning.filename for warning in caught] == [__file__]


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
    assert full == AttentionSpec(15, 5, 40, 11, NO_WINDOW, 10, 13.0, 0.5, has_sink=True)
    assert sliding == AttentionSpec(14, 7, 24, 17, 23, 6, 19.0, 0.5, has_sink=False)
    assert [layer.routed_scaling_factor for layer in config.layers] == [2.5, 1.0]
    assert [layer.intermediate_size for layer in config.layers] == [2048, 16384]


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


def test_the_dictionary_is_the_file_of_the_hub():
    content = MiMoConfig().to_dict()
    assert {key: HUB[key] for key in content} == content | {"routed_scaling_factor": None}


@st.composite
def configs(draw):
    """Draw configs; any of their numbers may differ from MiMo's."""
    size = st.integers(1, 1 << 20)
    number = st.floats(1e-300, 1e300)
    depth, num_kv_heads, swa_kv_heads = (draw(st.integers(1, 6)) for _ in range(3))
    head_dim = 2 * draw(st.integers(1, 64))
    rotated = 2 * draw(st.integers(1, head_dim // 2))
    experts = draw(st.integers(1, 64))
    kinds = st.lists(st.integers(0, 1), min_size=depth, max_size=depth).map(tuple)
    sizes = "vocab_size hidden_size intermediate_size max_position_embeddings sliding_window"
    sizes += " v_head_dim swa_v_head_dim moe_intermediate_size"
    numbers = "layernorm_epsilon initializer_range rope_theta swa_rope_theta"
    numbers += " attention_value_scale routed_scaling_factor"
    return MiMoConfig(
        **{name: draw(size) for name in sizes.split()},
        **{name: draw(number) for name in numbers.split()},
        num_hidden_layers=depth,
        num_attention_heads=num_kv_heads * draw(st.integers(1, 8)),
        num_key_value_heads=num_kv_heads,
        head_dim=head_dim,
        add_full_attention_sink_bias=draw(st.booleans()),
        swa_num_attention_heads=swa_kv_heads * draw(st.integers(1, 8)),
        swa_num_key_value_heads=swa_kv_heads,
        swa_head_dim=head_dim * draw(st.integers(1, 2)),
        add_swa_attention_sink_bias=draw(st.booleans()),
        partial_rotary_factor=min(1.0, (rotated + 0.25) / head_dim),
        n_routed_experts=experts,
        num_experts_per_tok=draw(st.integers(1, experts)),
        hybrid_layer_pattern=draw(kinds),
        moe_layer_freq=draw(kinds),
        eos_token_id=draw(st.none() | st.integers(0, 1 << 20) | kinds),
    )


@given(configs())
def test_any_model_survives_its_own_file(tmp_path_factory, config):
    assert load(tmp_path_factory.mktemp("model"), config.to_dict()) == config


def test_a_truncated_model_has_the_first_layers_of_the_whole():
    whole = MiMoConfig()
    assert whole.truncated(7).layers == whole.layers[:7]


def test_nothing_else_is_truncated():
    whole = MiMoConfig()
    restored = {
        name: getattr(whole, name)
        for name in ("num_hidden_layers", "hybrid_layer_pattern", "moe_layer_freq")
    }
    assert dataclasses.replace(whole.truncated(3), **restored) == whole


@pytest.mark.parametrize("count", [-1, 0, 49])
def test_more_layers_than_there_are_is_refused(count):
    with pytest.raises(ValueError, match=rf"num_layers {count} is not in 1\.\.48"):
        MiMoConfig().truncated(count)
