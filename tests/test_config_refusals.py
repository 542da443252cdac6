"""Errors of MiMoConfig.from_pretrained: unsupported, incomplete and damaged config.json files."""

import dataclasses

import pytest

from mimo_v2_flash.config import MiMoConfig
from tests.support.config_files import HUB, SAVED, load, without

OPTIONAL = {"num_devices", "eos_token_id", "initializer_range", "routed_scaling_factor"}
OPTIONAL |= {"fused_qkv_weight_order"}
NEEDED = [field.name for field in dataclasses.fields(MiMoConfig) if field.name not in OPTIONAL]
MEANS_ONE = "attention_value_scale"  # where it is null


def rope(**changes):
    """Return SAVED's rotary parameters with `changes` in sliding layers; None removes a key."""
    kinds = SAVED["rope_parameters"]
    sliding = {**kinds["sliding_attention"], **changes}
    return {**kinds, "sliding_attention": {k: v for k, v in sliding.items() if v is not None}}


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("model_type", "qwen3_moe", "'mimo_v2_flash' or 'mimo_v2' or '' or None"),
        ("hidden_act", "gelu", "'silu'"),
        ("attention_bias", True, "False"),
        ("tie_word_embeddings", True, "False"),
        ("scoring_func", "softmax", "'sigmoid'"),
        ("topk_method", "greedy", "'noaux_tc'"),
        ("norm_topk_prob", False, "True"),
        ("n_group", 8, "1"),
        ("topk_group", 4, "1"),
        ("n_shared_experts", 1, "None or 0"),
        ("store_dtype", "mxfp4", "None or 'fp8'"),
        ("rope_parameters", "yarn", "None or {}"),
    ],
)
def test_a_feature_that_is_not_computed_is_refused(tmp_path, key, value, allowed):
    with pytest.raises(ValueError, match=key) as refusal:
        load(tmp_path, HUB | {key: value})
    assert str(refusal.value).endswith(f"config.json: {key} = {value!r}: allowed is {allowed}")


@pytest.mark.parametrize("scaling", [{"type": "yarn", "factor": 4}, {"factor": 4}, "yarn"])
def test_scaled_rotary_embeddings_are_refused(tmp_path, scaling):
    with pytest.raises(ValueError, match=r"rope_scaling = .*(yarn|factor).*'default'"):
        load(tmp_path, HUB | {"rope_scaling": scaling})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_type": "yarn"}, "sliding_attention.rope_type = 'yarn': allowed is 'default'"),
        ({"partial_rotary_factor": 1}, "sliding_attention.partial_rotary_factor = 1: .* 0.5"),
        ({"rope_theta": None}, "missing: swa_rope_theta"),
    ],
)
def test_rotary_parameters_of_one_layer_type_are_checked(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, SAVED | {"rope_parameters": rope(**changes)})


@pytest.mark.parametrize(
    ("field", "change"),
    [(name, {}) for name in NEEDED]
    + [(name, {name: None}) for name in NEEDED if name != MEANS_ONE],
    ids=str,
)
def test_a_geometry_is_never_assumed(tmp_path, field, change):
    # The hub's sliding_window without its sliding_window_size could mean 128 keys or 129.
    key = {"sliding_window": "sliding_window_size"}.get(field, field)
    with pytest.raises(ValueError, match=f"config.json: missing: {key}$"):
        load(tmp_path, without(HUB, key) | change)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "64"}, "hidden_size = '64': allowed is an integer above 0"),
        ({"num_key_value_heads": "3"}, "num_key_value_heads = '3'"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
        ({"layer_types": "full_attention"}, "hybrid_layer_pattern = 'full_attention'"),
        ({"layer_types": [["full_attention"], {}]}, "hybrid_layer_pattern = "),
        ({"mlp_layer_types": ["dense"]}, "moe_layer_freq = .*num_hidden_layers = 2"),
        ({"rms_norm_eps": float("nan")}, "layernorm_epsilon = nan"),
        ({"sliding_window": True}, "sliding_window = True"),
    ],
)
def test_an_impossible_value_is_refused_with_the_name_of_the_file(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        load(tmp_path, SAVED | changes)


@pytest.mark.parametrize("size", ["128", 128.0, True, -1])
def test_an_impossible_window_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match="sliding_window = "):
        load(tmp_path, HUB | {"sliding_window": size, "sliding_window_size": size})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b'{"model_type": "\xff"}', "not JSON"),
        (b"[1, 2]", r"a JSON object is needed, not \[1, 2\]"),
        (b"null", "a JSON object is needed, not None"),
        (b'{"head_dim": 192, "head_dim": 128}', "not JSON: 'head_dim' is there more than once"),
    ],
)
def test_what_is_no_json_object_is_refused(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.json: {message}"):
        MiMoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["", "absent", "absent/config.json"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name or "config.json"):
        MiMoConfig.from_pretrained(tmp_path / name)
