"""What a config.json of mimo_v2 means that leaves fields out: as the hub's class reads it.

The oracle below is written from the class, with its own arithmetic.
"""

import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.config import MiMoConfig
from tests.support.config_files import HUB, load, without
from tests.support.published import V2_5

OPTIONAL = (
    *("head_dim", "v_head_dim", "swa_num_attention_heads", "swa_num_key_value_heads"),
    *("swa_head_dim", "swa_v_head_dim", "rope_theta", "swa_rope_theta", "partial_rotary_factor"),
    *("layernorm_epsilon", "attention_value_scale", "add_full_attention_sink_bias"),
    *("add_swa_attention_sink_bias", "hybrid_layer_pattern", "moe_layer_freq"),
    "moe_intermediate_size",
)
SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "max_position_embeddings"),
    *("n_routed_experts", "num_experts_per_tok"),
)


def of_hub_class(content: dict[str, Any]) -> MiMoConfig:
    """Return what the hub's class makes of `content`."""
    get, layers = content.get, content["num_hidden_layers"]
    theta = get("rope_theta", 1e4)
    head_dim = get("head_dim", content["hidden_size"] // content["num_attention_heads"])
    swa_head_dim = get("swa_head_dim", head_dim)
    names = (*SIZES, "initializer_range", "eos_token_id")
    return MiMoConfig(
        **{name: content[name] for name in names},
        head_dim=head_dim,
        v_head_dim=get("v_head_dim", head_dim),
        swa_num_attention_heads=get("swa_num_attention_heads", content["num_attention_heads"]),
        swa_num_key_value_heads=get("swa_num_key_value_heads", content["num_key_value_heads"]),
        swa_head_dim=swa_head_dim,
        swa_v_head_dim=get("swa_v_head_dim", swa_head_dim),
        rope_theta=theta,
        swa_rope_theta=get("swa_rope_theta", theta),
        partial_rotary_factor=get("partial_rotary_factor", 1.0),
        layernorm_epsilon=get("layernorm_epsilon", 1e-6),
        attention_value_scale=get("attention_value_scale", 1.0),
        add_full_attention_sink_bias=get("add_full_attention_sink_bias", False),
        add_swa_attention_sink_bias=get("add_swa_attention_sink_bias", False),
        hybrid_layer_pattern=tuple(get("hybrid_layer_pattern", [0] * layers)),
        moe_layer_freq=tuple(get("moe_layer_freq", [0] * layers)),
        moe_intermediate_size=get("moe_intermediate_size", content["intermediate_size"]),
        sliding_window=129,
    )


@given(st.sets(st.sampled_from(OPTIONAL), min_size=1))
def test_what_is_left_out_is_as_the_class_has_it_and_is_named(tmp_path_factory, absent):
    rotates_pairs = {"partial_rotary_factor": 0.5}  # of any head_dim
    content = without(V2_5 | rotates_pairs, *absent)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = load(tmp_path_factory.mktemp("config"), content)
    assert config == of_hub_class(content)
    (warning,) = caught
    assert warning.filename.endswith("config_files.py")  # the caller of from_pretrained
    listed = str(warning.message).partition("the hub's class MiMoV2Config: ")[2]
    assert {item.partition(" = ")[0] for item in listed.split(", ")} >= absent


@pytest.mark.parametrize("field", SIZES)
def test_a_size_has_no_default(tmp_path, field):
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(ValueError, match=rf"config\.json: missing: .*{field}"),
    ):
        load(tmp_path, without(V2_5, field, "head_dim", "hybrid_layer_pattern"))


@pytest.mark.parametrize("field", ["attention_value_scale", "layernorm_epsilon", "swa_head_dim"])
def test_the_first_model_has_no_defaults(tmp_path, field):
    with pytest.raises(ValueError, match=f"missing: {field}$"):
        load(tmp_path, without(HUB, field))


@pytest.mark.parametrize("content", [HUB, V2_5], ids=["mimo_v2_flash", "mimo_v2"])
def test_a_block_size_takes_the_place_of_a_pattern(tmp_path, content):
    changed = without(content, "hybrid_layer_pattern") | {"hybrid_block_size": 5}
    pattern = load(tmp_path, changed).hybrid_layer_pattern
    assert [layer for layer, sliding in enumerate(pattern) if not sliding] == [*range(4, 48, 5)]
    assert load(tmp_path, content | {"hybrid_block_size": 5}).hybrid_layer_pattern[5] == 0


@pytest.mark.parametrize("size", [0, -1, "5", True, 2.0, 1 << 40])
def test_an_impossible_block_size_is_refused(tmp_path, size):
    changed = without(V2_5, "hybrid_layer_pattern") | {"hybrid_block_size": size}
    with pytest.raises(ValueError, match=r"hybrid_block_size = .*: allowed is an integer above 0"):
        load(tmp_path, changed)


@pytest.mark.parametrize(
    ("value", "sparse"),
    [
        (1, [*range(48)]),
        (3, [*range(0, 48, 3)]),
        (0, []),
        (-2, []),
        ([True] + [False] * 47, [0]),
    ],
)
def test_mixtures_in_a_period(tmp_path, value, sparse):
    layers = load(tmp_path, V2_5 | {"moe_layer_freq": value}).moe_layer_freq
    assert [layer for layer, kind in enumerate(layers) if kind] == sparse


def test_a_period_of_the_first_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="moe_layer_freq = 1: allowed is a tuple"):
        load(tmp_path, HUB | {"moe_layer_freq": 1})


@pytest.mark.parametrize("absent", ["sliding_window", "sliding_window_size"])
def test_either_name_of_the_window_counts_the_keys_before_a_token(tmp_path, absent):
    assert load(tmp_path, without(V2_5, absent)).sliding_window == 129


def test_no_window_at_all_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"missing: sliding_window_size$"):
        load(tmp_path, without(V2_5, "sliding_window", "sliding_window_size"))


@pytest.mark.parametrize("number", ["48", None, 1 << 40, -1, True, 2.5, [48]])
@pytest.mark.parametrize("field", ["num_hidden_layers", "hidden_size", "num_attention_heads"])
def test_a_default_of_an_impossible_size_is_refused_by_the_size(tmp_path, field, number):
    changed = without(V2_5, "head_dim", "hybrid_layer_pattern", "moe_layer_freq")
    with warnings.catch_warnings(action="ignore"), pytest.raises(ValueError, match=field):
        load(tmp_path, changed | {field: number})
