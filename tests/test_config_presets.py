"""Presets: a name and a method for each published model; numbers as config.json has them.

tests/test_config_file.py compares each with its config.json, tests/costs/test_tensor_counts.py its
layout with the totals of its files.
"""

import pytest

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.config_presets import DEFAULT_PRESET, NO_TOWERS, PRESETS, find_preset

FULL_LAYERS = [0, 7, 15, 23, 31, 39, 47, 55, 62, 69]  # of the Pro models, in no period


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_has_a_method_of_its_name(name):
    method = getattr(MiMoConfig, name.replace("-", "_").replace(".", "_"))
    assert method() == MiMoConfig.from_preset(name)
    assert method(num_devices=4).num_devices == 4


def test_the_default_is_the_default_config():
    assert MiMoConfig.from_preset(DEFAULT_PRESET) == MiMoConfig()


@pytest.mark.parametrize("name", ["v2.5-pro", "v2.5-pro-fp4", "v2.6-pro"])
def test_a_pro_model_is_mere_numbers(name):
    config = MiMoConfig.from_preset(name)
    full = [i for i, kind in enumerate(config.hybrid_layer_pattern) if not kind]
    assert full == FULL_LAYERS
    assert {layer.attention.num_kv_heads for layer in config.layers} == {8}
    assert {layer.attention.value_scale for layer in config.layers} == {0.612}
    assert {layer.hidden_size for layer in config.layers} == {6144}
    assert config.layers[69].num_experts == 384


def test_epsilon_follows_no_release():
    """MiMo-V2.6-Flash alone has 1e-6; V2.6-Pro has the 1e-5 of the older models."""
    epsilon = {name: MiMoConfig.from_preset(name).layernorm_epsilon for name in PRESETS}
    assert {name for name, value in epsilon.items() if value == 1e-6} == {
        "v2.6-flash",
        "v2.6-flash-mopd",
    }
    assert epsilon["v2.6-pro"] == 1e-5


def test_only_v2_5_pro_and_older_models_have_no_towers():
    without_towers = {name for name, preset in PRESETS.items() if preset.towers == NO_TOWERS}
    assert without_towers == {"v2-flash", "v2-flash-base", "v2.5-pro", "v2.5-pro-fp4"}


@pytest.mark.parametrize("name", ["", "v2.7", "V2.5", "v2_5"])
def test_another_name_is_refused_with_all_names(name):
    with pytest.raises(ValueError, match=f"^model '{name}': the models are v2-flash, .*v2.6-pro$"):
        find_preset(name)
