"""Reading config.json: the hub's spelling and transformers' give the same MiMoConfig."""

import dataclasses
import json

import pytest

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.config_file import read_layout
from mimo_v2_flash.config_presets import PRESETS
from tests.support.config_files import HUB, SAVED, SMALL, load, without, written
from tests.support.published import CONFIGS, V2_5_PRO


def test_the_file_of_the_hub_is_the_default(tmp_path):
    assert load(tmp_path, HUB) == MiMoConfig()


def test_a_file_saved_by_transformers(tmp_path):
    assert load(tmp_path, SAVED) == SMALL


def test_the_folder_of_a_file_will_do_as_path_or_string(tmp_path):
    written(tmp_path, HUB)
    assert MiMoConfig.from_pretrained(str(tmp_path)) == MiMoConfig()
    assert MiMoConfig.from_pretrained(tmp_path, num_devices=32) == MiMoConfig(num_devices=32)


def test_a_file_in_utf_8_with_a_byte_order_mark(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(HUB), encoding="utf-8-sig")
    assert MiMoConfig.from_pretrained(tmp_path) == MiMoConfig()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_file_is_its_preset(tmp_path, name):
    assert load(tmp_path, CONFIGS[name]) == MiMoConfig.from_preset(name)
    assert read_layout(tmp_path / "config.json") == PRESETS[name].layout


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
def test_other_spellings_of_the_same_model(tmp_path, changes):
    assert load(tmp_path, HUB | changes) == MiMoConfig()


def test_rotary_parameters_for_all_layers_leave_the_sliding_ones_their_own_theta(tmp_path):
    one_set = {"rope_theta": 7.0, "partial_rotary_factor": 0.5, "rope_type": "default"}
    incomplete = without(HUB, "rope_theta", "partial_rotary_factor")
    config = load(tmp_path, incomplete | {"rope_parameters": one_set})
    assert config == MiMoConfig(rope_theta=7.0, partial_rotary_factor=0.5)


def test_only_mimo_v2_flash_doubles_the_heads_of_sliding_layers_by_itself(tmp_path):
    """MiMo-V2.5-Pro has as many in both kinds, whatever the spelling of its layers."""
    layer_types = {"layer_types": ["sliding_attention"] * 70}
    config = load(tmp_path, without(V2_5_PRO, "hybrid_layer_pattern") | layer_types)
    assert config.swa_num_key_value_heads == 8


def test_fields_that_every_reader_knows_without_the_file(tmp_path):
    incomplete = without(
        HUB, "model_type", "routed_scaling_factor", "initializer_range", "n_shared_experts"
    )
    assert load(tmp_path, without(incomplete, "eos_token_id")) == MiMoConfig(eos_token_id=None)


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"attention_value_scale": None}, "attention_value_scale", 1.0),
        ({"routed_scaling_factor": None}, "routed_scaling_factor", 1.0),
        ({"eos_token_id": None}, "eos_token_id", None),
        ({"initializer_range": None}, "initializer_range", 0.02),
    ],
)
def test_what_a_null_means(tmp_path, changes, field, value):
    assert load(tmp_path, SAVED | changes) == dataclasses.replace(SMALL, **{field: value})


def test_rotary_factors_that_transformers_would_supply(tmp_path):
    kinds = {
        kind: without(parameters, "partial_rotary_factor")
        for kind, parameters in SAVED["rope_parameters"].items()
    }
    config = load(tmp_path, SAVED | {"rope_parameters": kinds})
    assert config == dataclasses.replace(SMALL, partial_rotary_factor=0.334)


def test_transformers_own_file_is_the_hubs(tmp_path):
    """The same model, described to transformers in its own fields and saved by it."""
    transformers = pytest.importorskip("transformers")
    transformers.MiMoV2FlashConfig(
        max_position_embeddings=262144, eos_token_id=151645
    ).save_pretrained(tmp_path)
    assert MiMoConfig.from_pretrained(tmp_path) == MiMoConfig()


def test_a_small_model_saved_by_transformers(tmp_path):
    """SAVED equals a file that transformers writes; the other tests rely on it."""
    transformers = pytest.importorskip("transformers")
    transformers.MiMoV2FlashConfig(**without(SAVED, "model_type")).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {key: saved[key] for key in SAVED} == SAVED
    assert MiMoConfig.from_pretrained(tmp_path) == SMALL


def test_transformers_reads_the_window_of_a_file_of_the_hub_alike(tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.MiMoV2FlashConfig(**without(HUB, "model_type", "rope_scaling"))
    assert load(tmp_path, HUB).sliding_window == theirs.sliding_window
