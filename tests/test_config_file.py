"""config.json as the hub has it and as transformers saves it, and what is refused of either."""

import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.config import MiMoConfig

HUB = {
    "architectures": ["MiMoV2FlashForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_mimo_v2_flash.MiMoV2FlashConfig"},
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "model_type": "mimo_v2_flash",
    "vocab_size": 152576,
    "hidden_size": 4096,
    "intermediate_size": 16384,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 192,
    "v_head_dim": 128,
    "swa_num_attention_heads": 64,
    "swa_num_key_value_heads": 8,
    "swa_head_dim": 192,
    "swa_v_head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 262144,
    "initializer_range": 0.02,
    "layernorm_epsilon": 1e-05,
    "use_cache": True,
    "tie_word_embeddings": False,
    "rope_theta": 5000000,
    "swa_rope_theta": 10000,
    "rope_scaling": None,
    "partial_rotary_factor": 0.334,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attention_value_scale": 0.707,
    "sliding_window": 128,
    "sliding_window_size": 128,
    "attention_chunk_size": 128,
    "add_swa_attention_sink_bias": True,
    "add_full_attention_sink_bias": False,
    "hybrid_block_size": None,
    "hybrid_layer_pattern": [0, 1, 1, 1, 1] + [0, 1, 1, 1, 1, 1] * 7 + [0],
    "moe_layer_freq": [0] + [1] * 47,
    "n_routed_experts": 256,
    "n_shared_experts": None,
    "num_experts_per_tok": 8,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": None,
    "eos_token_id": 151645,
    "torch_dtype": "bfloat16",
}
PRO = HUB | {
    "model_type": "mimo_v2",
    "hidden_size": 6144,
    "num_hidden_layers": 70,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "swa_num_attention_heads": 128,
    "swa_num_key_value_heads": 8,
    "n_routed_experts": 384,
    "rope_theta": 10000000,
    "max_position_embeddings": 1048576,
    "attention_value_scale": 0.612,
    "hybrid_layer_pattern": [
        int(i not in {0, 7, 15, 23, 31, 39, 47, 55, 62, 69}) for i in range(70)
    ],
    "moe_layer_freq": [0] + [1] * 69,
}
# What transformers 5.23 saves of a model with two layers.
SAVED = {
    "model_type": "mimo_v2_flash",
    "attention_bias": False,
    "attention_value_scale": 0.5,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "head_dim": 24,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.03,
    "intermediate_size": 96,
    "layer_types": ["sliding_attention", "full_attention"],
    "max_position_embeddings": 512,
    "mlp_layer_types": ["sparse", "dense"],
    "moe_intermediate_size": 32,
    "n_group": 1,
    "n_routed_experts": 8,
    "norm_topk_prob": True,
    "num_attention_heads": 12,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "full_attention": {
            "partial_rotary_factor": 0.5,
            "rope_theta": 700.0,
            "rope_type": "default",
        },
        "sliding_attention": {
            "partial_rotary_factor": 0.5,
            "rope_theta": 30.0,
            "rope_type": "default",
        },
    },
    "routed_scaling_factor": 2.5,
    "sliding_window": 5,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "v_head_dim": 16,
    "vocab_size": 128,
}
SMALL = MiMoConfig(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    max_position_embeddings=512,
    layernorm_epsilon=1e-6,
    initializer_range=0.03,
    num_attention_heads=12,
    num_key_value_heads=3,
    head_dim=24,
    v_head_dim=16,
    rope_theta=700.0,
    add_full_attention_sink_bias=False,
    swa_num_attention_heads=12,
    swa_num_key_value_heads=6,
    swa_head_dim=24,
    swa_v_head_dim=16,
    swa_rope_theta=30.0,
    add_swa_attention_sink_bias=True,
    sliding_window=5,
    partial_rotary_factor=0.5,
    attention_value_scale=0.5,
    n_routed_experts=8,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    routed_scaling_factor=2.5,
    hybrid_layer_pattern=(1, 0),
    moe_layer_freq=(1, 0),
    eos_token_id=(2, 3),
)


@pytest.fixture
def load(tmp_path):
    """Return the MiMoConfig of a config.json with the given content."""

    def write_and_read(content):
        file = tmp_path / "config.json"
        file.write_text(json.dumps(content), encoding="utf-8")
        return MiMoConfig.from_pretrained(file)

    return write_and_read


def without(content, *keys):
    return {key: value for key, value in content.items() if key not in keys}


def rope(**changes):
    """Return SAVED's rotary parameters with those of the sliding layers changed."""
    kinds = SAVED["rope_parameters"]
    sliding = {**kinds["sliding_attention"], **changes}
    return {**kinds, "sliding_attention": {k: v for k, v in sliding.items() if v is not None}}


def test_the_file_of_the_hub_is_the_default(load):
    assert load(HUB) == MiMoConfig()


def test_a_file_saved_by_transformers(load):
    assert load(SAVED) == SMALL


def test_the_folder_of_a_file_will_do_as_path_or_string(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(HUB))
    assert MiMoConfig.from_pretrained(str(tmp_path)) == MiMoConfig()
    assert MiMoConfig.from_pretrained(tmp_path, num_devices=32) == MiMoConfig(num_devices=32)


def test_a_file_in_utf_8_with_a_byte_order_mark(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(HUB), encoding="utf-8-sig")
    assert MiMoConfig.from_pretrained(tmp_path) == MiMoConfig()


def test_mimo_v2_5_pro_is_mere_numbers(load):
    config = load(PRO)
    full = [i for i, kind in enumerate(config.hybrid_layer_pattern) if not kind]
    assert full == [0, 7, 15, 23, 31, 39, 47, 55, 62, 69]
    assert {layer.attention.kv_heads for layer in config.layers} == {8}
    assert {layer.attention.value_scale for layer in config.layers} == {0.612}
    assert {layer.hidden for layer in config.layers} == {6144}
    assert config.layers[69].experts == 384


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "mimo_v2"},
        {"model_type": ""},
        {"rope_scaling": {"rope_type": "default", "type": "default"}},  # MiMo-V2.5
        {  # MiMo-V2.6
            "rope_parameters": {
                "partial_rotary_factor": 0.334,
                "rope_theta": 5000000.0,
                "rope_type": "default",
                "type": "default",
            }
        },
        {"routed_scaling_factor": 1.0},
        {"n_shared_experts": 0},
        {"sliding_window": 129},
        {"rope_parameters": None},
    ],
    ids=str,
)
def test_other_words_for_the_same_model(load, changes):
    assert load(HUB | changes) == MiMoConfig()


def test_rotary_parameters_for_all_layers_leave_the_sliding_ones_their_own_theta(load):
    one_set = {"rope_theta": 7.0, "partial_rotary_factor": 0.5, "rope_type": "default"}
    config = load(
        without(HUB, "rope_theta", "partial_rotary_factor") | {"rope_parameters": one_set}
    )
    assert config == MiMoConfig(rope_theta=7.0, partial_rotary_factor=0.5)


def test_only_mimo_v2_flash_doubles_the_heads_of_sliding_layers_by_itself(load):
    """MiMo-V2.5-Pro has as many in both kinds, whatever the spelling of its layers."""
    spelled = {"layer_types": ["sliding_attention"] * 70}
    config = load(without(PRO, "hybrid_layer_pattern") | spelled)
    assert config.swa_num_key_value_heads == 8


def test_fields_that_every_reader_knows_without_the_file(load):
    sparse = without(
        HUB, "model_type", "routed_scaling_factor", "initializer_range", "n_shared_experts"
    )
    assert load(without(sparse, "eos_token_id")) == MiMoConfig(eos_token_id=None)


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"attention_value_scale": None}, "attention_value_scale", 1.0),
        ({"routed_scaling_factor": None}, "routed_scaling_factor", 1.0),
        ({"eos_token_id": None}, "eos_token_id", None),
        ({"initializer_range": None}, "initializer_range", 0.02),
    ],
)
def test_what_a_null_means(load, changes, field, value):
    assert load(SAVED | changes) == dataclasses.replace(SMALL, **{field: value})


def test_rotary_factors_that_transformers_would_supply(load):
    kinds = {
        kind: without(parameters, "partial_rotary_factor")
        for kind, parameters in SAVED["rope_parameters"].items()
    }
    config = load(SAVED | {"rope_parameters": kinds})
    assert config == dataclasses.replace(SMALL, partial_rotary_factor=0.334)


@pytest.mark.parametrize(
    ("changes", "first", "second"),
    [
        ({"layernorm_epsilon": 1e-5}, "rms_norm_eps says 1e-06", "layernorm_epsilon says 1e-05"),
        (
            {"hybrid_layer_pattern": [0, 1]},
            "layer_types says (1, 0)",
            "hybrid_layer_pattern says (0, 1)",
        ),
        ({"moe_layer_freq": [1, 1]}, "mlp_layer_types says (1, 0)", "moe_layer_freq says (1, 1)"),
        (
            {"rope_theta": 5},
            "rope_parameters.full_attention.rope_theta says 700.0",
            "rope_theta says 5",
        ),
        (
            {"swa_rope_theta": 5},
            "rope_parameters.sliding_attention.rope_theta says 30.0",
            "swa_rope_theta says 5",
        ),
        (
            {"partial_rotary_factor": 1},
            "rope_parameters.full_attention.partial_rotary_factor says 0.5",
            "partial_rotary_factor says 1",
        ),
        ({"sliding_window_size": 128}, "sliding_window says 5", "sliding_window_size says 129"),
        (
            {"swa_num_key_value_heads": 3},
            "num_key_value_heads says 6",
            "swa_num_key_value_heads says 3",
        ),
        (
            {"swa_num_attention_heads": 6},
            "num_attention_heads says 12",
            "swa_num_attention_heads says 6",
        ),
        ({"swa_head_dim": 8}, "head_dim says 24", "swa_head_dim says 8"),
        ({"swa_v_head_dim": 8}, "v_head_dim says 16", "swa_v_head_dim says 8"),
        (
            {"add_swa_attention_sink_bias": False},
            "layer_types says True",
            "add_swa_attention_sink_bias says False",
        ),
        (
            {"add_full_attention_sink_bias": True},
            "layer_types says False",
            "add_full_attention_sink_bias says True",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_transformers_spelling_wins_with_a_warning(load, changes, first, second):
    conflict = re.escape(f": {first}, {second}; took {first.split()[0]}")
    with pytest.warns(UserWarning, match=conflict) as warned:
        config = load(SAVED | changes)
    assert config == SMALL
    (warning,) = warned  # one for the one conflict
    assert warning.filename == __file__  # the caller's line, not this package's


def test_every_conflict_has_its_own_warning(load):
    with pytest.warns(UserWarning, match="rope_theta|layernorm_epsilon") as warned:
        config = load(SAVED | {"rope_theta": 5, "layernorm_epsilon": 1e-3})
    assert config == SMALL
    assert len(warned) == 2


def test_two_spellings_that_agree_are_no_conflict(load):
    agreeing = without(SMALL.to_dict(), "sliding_window", "rope_scaling")
    assert load(SAVED | agreeing) == SMALL
    assert load(SAVED | agreeing | {"sliding_window": 4}) == SMALL  # the hub's pair of windows


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
        ("rope_parameters", "yarn", "None or {}"),
    ],
)
def test_a_feature_that_is_not_computed_is_refused(load, key, value, allowed):
    with pytest.raises(ValueError, match=key) as refusal:
        load(HUB | {key: value})
    assert str(refusal.value).endswith(f"config.json: {key} = {value!r}: allowed is {allowed}")


@pytest.mark.parametrize("scaling", [{"type": "yarn", "factor": 4}, {"factor": 4}, "yarn"])
def test_scaled_rotary_embeddings_are_refused(load, scaling):
    with pytest.raises(ValueError, match=r"rope_scaling = .*(yarn|factor).*'default'"):
        load(HUB | {"rope_scaling": scaling})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_type": "yarn"}, "sliding_attention.rope_type = 'yarn': allowed is 'default'"),
        ({"partial_rotary_factor": 1}, "sliding_attention.partial_rotary_factor = 1: .* 0.5"),
        ({"rope_theta": None}, "missing: swa_rope_theta"),
    ],
)
def test_rotary_parameters_of_one_layer_type_are_checked(load, changes, message):
    with pytest.raises(ValueError, match=message):
        load(SAVED | {"rope_parameters": rope(**changes)})


OPTIONAL = {"num_devices", "eos_token_id", "initializer_range", "routed_scaling_factor"}
NEEDED = [field.name for field in dataclasses.fields(MiMoConfig) if field.name not in OPTIONAL]
MEANS_ONE = "attention_value_scale"  # where it is null


@pytest.mark.parametrize(
    ("field", "change"),
    [(name, {}) for name in NEEDED]
    + [(name, {name: None}) for name in NEEDED if name != MEANS_ONE],
    ids=str,
)
def test_a_geometry_is_never_assumed(load, field, change):
    # The hub's sliding_window without its sliding_window_size could mean 128 keys or 129.
    key = {"sliding_window": "sliding_window_size"}.get(field, field)
    with pytest.raises(ValueError, match=f"config.json: missing: {key}$"):
        load(without(HUB, key) | change)


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
def test_an_impossible_value_is_refused_with_the_name_of_the_file(load, changes, message):
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        load(SAVED | changes)


@pytest.mark.parametrize("size", ["128", 128.0, True, -1])
def test_an_impossible_window_is_refused(load, size):
    with pytest.raises(ValueError, match="sliding_window = "):
        load(HUB | {"sliding_window": size, "sliding_window_size": size})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b'{"model_type": "\xff"}', "not JSON"),
        (b"[1, 2]", r"a JSON object is needed, not \[1, 2\]"),
        (b"null", "a JSON object is needed, not None"),
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


def test_the_dictionary_is_the_file_of_the_hub():
    said = MiMoConfig().to_dict()
    assert {key: HUB[key] for key in said} == said | {"routed_scaling_factor": None}


@st.composite
def configs(draw):
    """Draw models of which every number may differ from MiMo's."""
    size = st.integers(1, 1 << 20)
    number = st.floats(1e-300, 1e300)
    depth, kv_heads, swa_kv_heads = (draw(st.integers(1, 6)) for _ in range(3))
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
        num_attention_heads=kv_heads * draw(st.integers(1, 8)),
        num_key_value_heads=kv_heads,
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
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    assert MiMoConfig.from_pretrained(folder) == config


def test_transformers_own_file_is_the_hubs(tmp_path):
    """The same model, described to transformers in its own fields and saved by it."""
    transformers = pytest.importorskip("transformers")
    transformers.MiMoV2FlashConfig(
        max_position_embeddings=262144, eos_token_id=151645
    ).save_pretrained(tmp_path)
    assert MiMoConfig.from_pretrained(tmp_path) == MiMoConfig()


def test_a_small_model_saved_by_transformers(tmp_path):
    """SAVED is what transformers writes, so the tests above are about files that exist."""
    transformers = pytest.importorskip("transformers")
    transformers.MiMoV2FlashConfig(**without(SAVED, "model_type")).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {key: saved[key] for key in SAVED} == SAVED
    assert MiMoConfig.from_pretrained(tmp_path) == SMALL


def test_transformers_reads_the_window_of_a_file_of_the_hub_alike(load):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.MiMoV2FlashConfig(**without(HUB, "model_type", "rope_scaling"))
    assert load(HUB).sliding_window == theirs.sliding_window
