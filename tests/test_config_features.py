"""Tests of config_features: keys that are refused, ignored for a reason, or named."""

import json
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.config_features import NESTED, SUPPORTED, WITHOUT_EFFECT
from tests.support.config_files import HUB, SAVED, load, written
from tests.support.published import CONFIGS
from tests.support.shipped import FOLDER

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)
NEW_KEYS = st.text(st.characters(codec="ascii", categories=["L"]), min_size=1).map("new_{}".format)


def nested(key: str, value: object) -> dict:
    """Return `{a: {b: value}}` for the key "a.b"."""
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def loaded_with_warnings(folder, content) -> tuple[MiMoConfig, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return load(folder, content), [str(warning.message) for warning in caught]


@pytest.mark.parametrize("key", sorted(SUPPORTED))
def test_another_value_of_a_key_that_changes_the_arithmetic_is_refused(tmp_path, key):
    with pytest.raises(ValueError, match=r"config\.json: ") as refusal:
        load(tmp_path, HUB | nested(key, "a value of tomorrow"))
    assert f"config.json: {key} = 'a value of tomorrow': allowed is " in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("moe_router_dtype", "float16"),
        ("quantization_config.store_dtype", "nvfp4"),
        ("quantization_config.mxfp4_block_size", 16),
        ("attention_projection_layout", "fused_kv"),
        ("fused_qkv_weight_order", "by head"),
        ("quantization_config.quant_method", "gptq"),
        ("quantization_config.fmt", "e5m2"),
        ("quantization_config.weight_block_size", [64, 128]),
        ("quantization_config.weight_block_size", None),
        ("quantization_config.activation_scheme", "static"),
        ("quantization_config", "fp8"),
        ("final_logit_softcapping", 30.0),
        ("use_qk_norm", True),
    ],
)
def test_what_the_files_of_the_family_may_ask_for_and_is_not_computed(tmp_path, key, value):
    with pytest.raises(ValueError, match=r"config\.json: ") as refusal:
        load(tmp_path, HUB | nested(key, value))
    assert f"config.json: {key} = {value!r}: allowed is " in str(refusal.value)


@pytest.mark.parametrize(
    "content",
    [*CONFIGS.values(), SAVED, MiMoConfig().to_dict()],
    ids=[*CONFIGS, "saved by transformers", "default"],
)
def test_published_files_have_no_unknown_key(tmp_path, content):
    assert loaded_with_warnings(tmp_path, content)[1] == []


def test_the_shipped_file_has_no_unknown_key(tmp_path):
    content = json.loads((FOLDER / "config.json").read_text())
    assert loaded_with_warnings(tmp_path, content)[1] == []


def test_what_transformers_saves_has_no_unknown_key(tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.MiMoV2FlashConfig().save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    fp8 = transformers.FineGrainedFP8Config().to_dict()
    content["quantization_config"] = json.loads(json.dumps(fp8))
    assert loaded_with_warnings(tmp_path, content)[1] == []


@given(st.sampled_from(sorted(WITHOUT_EFFECT)), JSON)
def test_a_key_without_effect_has_none_whatever_its_value(tmp_path_factory, key, value):
    folder = tmp_path_factory.mktemp("config")
    config, caught = loaded_with_warnings(folder, HUB | nested(key, value))
    assert (config, caught) == (MiMoConfig(), [])


@given(st.dictionaries(NEW_KEYS, JSON, min_size=1, max_size=4), st.sampled_from(["", *NESTED]))
def test_an_unknown_key_is_named_in_full_wherever_it_stands(tmp_path_factory, unknown, place):
    folder = tmp_path_factory.mktemp("config")
    content = HUB | (nested(place, unknown) if place else unknown)
    config, (warning,) = loaded_with_warnings(folder, content)
    assert config == MiMoConfig()
    names = ", ".join(f"{place}.{key}" if place else key for key in unknown)
    assert warning == f"{folder / 'config.json'}: not understood and without effect: {names}"


def test_the_warning_is_attributed_to_the_caller(tmp_path):
    file = written(tmp_path, HUB | {"new_key": 1})
    with pytest.warns(UserWarning, match="new_key") as caught:
        MiMoConfig.from_pretrained(file)
    assert caught[0].filename == __file__
