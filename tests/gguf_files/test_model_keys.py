"""Keys of a model: every config comes back from them; what mimo2 cannot say is refused."""

from dataclasses import asdict, replace

import gguf
import pytest
from hypothesis import given

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.gguf_files.model_keys import WINDOW_KEYS, config_of_keys, keys_of_config
from tests.support.tiny import recipes, tiny

FLASH = MiMoConfig(hybrid_layer_pattern=(0, 1, 0), moe_layer_freq=(0, 1, 1), num_hidden_layers=3)
ROUTERS = {f"blk.{layer}.ffn_gate_inp.weight" for layer in (1, 2)}
SINKS = {"blk.1.attn_sinks.weight"}


def keys_of(config: MiMoConfig, **changes: object) -> dict[str, object]:
    keys = {"general.architecture": "mimo2"}
    keys |= {key.name: key.value for key in keys_of_config(asdict(config))}
    keys |= {f"mimo2.{name.replace('__', '.')}": value for name, value in changes.items()}
    return {name: value for name, value in keys.items() if value is not None}


def read(keys, tensors=frozenset(ROUTERS | SINKS), **readings):
    return config_of_keys(keys, tensors, FLASH.vocab_size, **readings)


def test_the_config_of_the_hub_comes_back(tmp_path):
    import json

    file = tmp_path / "config.json"
    file.write_text(json.dumps(read(keys_of(FLASH)) | {"eos_token_id": FLASH.eos_token_id}))
    assert MiMoConfig.from_pretrained(file) == FLASH


@given(recipe=recipes())
def test_every_field_that_computes_comes_back(recipe):
    config = tiny(replace(recipe, scaling=1.0)).config
    tensors = {
        f"blk.{i}.ffn_gate_inp.weight" for i, sparse in enumerate(config.moe_layer_freq) if sparse
    }
    tensors |= {
        f"blk.{i}.attn_sinks.weight" for i, s in enumerate(config.hybrid_layer_pattern) if s
    }
    fields = config_of_keys(keys_of(config), tensors, config.vocab_size)
    assert fields["num_hidden_layers"] == config.num_hidden_layers
    assert fields["sliding_window_size"] == config.sliding_window - 1
    assert tuple(fields["moe_layer_freq"]) == config.moe_layer_freq
    built = replace(
        config,
        **{
            k: tuple(v) if isinstance(v, list) else v
            for k, v in fields.items()
            if k in asdict(config)
        },
    )
    assert built.layers == config.layers


def test_the_names_are_those_of_the_gguf_package():
    known = {
        value.replace("{arch}", "mimo2")
        for space in vars(gguf.Keys).values()
        if isinstance(space, type)
        for value in vars(space).values()
        if isinstance(value, str) and "{arch}" in value
    }
    names = {key.name for key in keys_of_config(asdict(FLASH))}
    assert names - known == {
        WINDOW_KEYS,
        "mimo2.attention.value_scale",
    }  # the latter is llama.cpp's


def test_llama_cpp_is_told_how_many_keys_the_model_sees():
    """It counts the token itself, which the hub's field does not."""
    assert keys_of(FLASH)["mimo2.attention.sliding_window"] == FLASH.sliding_window == 129


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({}, 129),
        ({"attention__sliding_window": 128}, 129),
        ({"attention__sliding_window": 64}, 64),
    ],
)
def test_the_window_of_a_file_without_our_key_is_the_hubs_without_the_token(changes, window):
    keys = keys_of(FLASH, **changes)
    if changes:
        del keys[WINDOW_KEYS]
    assert read(keys)["sliding_window_size"] == window - 1
    assert read(keys, window_keys=128)["sliding_window_size"] == 127


def test_a_file_without_the_value_scale_is_refused_until_it_is_named():
    keys = keys_of(FLASH, attention__value_scale=None)
    with pytest.raises(ValueError, match=r"no key mimo2\.attention\.value_scale.*--value-scale"):
        read(keys)
    assert read(keys, value_scale=0.5)["attention_value_scale"] == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding_length": None}, "no key mimo2.embedding_length"),
        ({"attention__head_count_kv": [4, 8, 2]}, "layers of one kind have"),
    ],
)
def test_damaged_keys_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        read(keys_of(FLASH, **changes))


def test_another_architecture_is_refused():
    with pytest.raises(ValueError, match=r"general\.architecture is 'qwen2', expected 'mimo2'"):
        read({"general.architecture": "qwen2"})


def test_blocks_of_mtp_are_no_layers():
    keys = keys_of(FLASH, block_count=4, nextn_predict_layers=1)
    keys["mimo2.attention.sliding_window_pattern"] = [0, 1, 0, 1]
    keys["mimo2.attention.head_count_kv"] = [4, 8, 4, 8]
    assert read(keys)["hybrid_layer_pattern"] == [0, 1, 0]


@pytest.mark.parametrize(("field", "value"), [("swa_head_dim", 64), ("routed_scaling_factor", 2.5)])
def test_what_mimo2_has_no_key_for_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        keys_of(replace(FLASH, **{field: value}))
