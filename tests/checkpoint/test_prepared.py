"""Tests of PreparedMetadata: read back as written; damage and other models are refused."""

import json
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from mimo_v2_flash.checkpoint import load_weights
from mimo_v2_flash.checkpoint.prepared import FREE, SOURCE_DIGEST, PreparedMetadata
from mimo_v2_flash.checkpoint.source import file_header
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.parallel_config import ShardSpec
from tests.support.quantised import SMALL

PREPARED = PreparedMetadata(
    source='a "folder"',
    revision="0123",
    dtype="fp8",
    target="cpu",
    experts=(1, 3),
    config=SMALL.to_dict(),
)
METADATA = PREPARED.to_metadata()
OTHERS = {  # a valid value that is not SMALL's
    "vocab_size": 10,
    "hidden_size": 128,
    "intermediate_size": 256,
    "layernorm_epsilon": 1e-6,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "v_head_dim": 64,
    "rope_theta": 1e7,
    "add_full_attention_sink_bias": True,
    "swa_num_attention_heads": 16,
    "swa_num_key_value_heads": 4,
    "swa_head_dim": 128,
    "swa_v_head_dim": 64,
    "swa_rope_theta": 1e5,
    "add_swa_attention_sink_bias": False,
    "partial_rotary_factor": 0.5,
    "attention_value_scale": 0.612,
    "n_routed_experts": 6,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 48,
    "routed_scaling_factor": 2.5,
    "hybrid_layer_pattern": (0, 1, 1),
    "moe_layer_freq": (0, 1, 0),
}


@pytest.mark.parametrize("experts", [(), (0,), (1, 3), tuple(range(5))])
def test_metadata_comes_back_from_a_file(tmp_path, experts):
    written = replace(PREPARED, experts=experts)
    save_file({"x": np.zeros(1)}, tmp_path / "x.safetensors", written.to_metadata())
    read = PreparedMetadata.of_metadata(file_header(tmp_path / "x.safetensors").metadata)
    assert asdict(read) == json.loads(json.dumps(asdict(written))) | {"experts": experts}
    read.check(SMALL)


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}, METADATA | {"format": "mimo"}])
def test_what_others_wrote_is_not_prepared(metadata):
    assert PreparedMetadata.of_metadata(metadata) is None


@pytest.mark.parametrize("version", ["0", "1", 2, None])
def test_another_version_is_refused_with_both(version):
    with pytest.raises(ValueError, match=rf"version {version}, this release reads 2: prepare them"):
        PreparedMetadata.of_metadata(METADATA | {"format_version": version})


def test_a_file_without_a_version_is_refused():
    with pytest.raises(ValueError, match="format version None"):
        PreparedMetadata.of_metadata({"format": "mimo-v2-flash"})


@pytest.mark.parametrize("field", [field.name for field in fields(PreparedMetadata)])
@pytest.mark.parametrize("value", ["{", "", 3, None, "[" * 100_000])
def test_damage_is_refused(field, value):
    with pytest.raises(ValueError, match="prepared weights with damaged metadata"):
        PreparedMetadata.of_metadata(METADATA | {field: value})


def test_files_of_the_last_release_have_no_digest_of_their_source():
    assert SOURCE_DIGEST not in METADATA
    assert PreparedMetadata.of_metadata(METADATA).source_digest == ""
    later = replace(PREPARED, source_digest="ab12")
    assert PreparedMetadata.of_metadata(later.to_metadata()) == later


@pytest.mark.parametrize("field", sorted(METADATA.keys() - {"format", "format_version"}))
def test_a_missing_field_is_damage(field):
    metadata = {name: value for name, value in METADATA.items() if name != field}
    with pytest.raises(ValueError, match=f"damaged metadata: '{field}'"):
        PreparedMetadata.of_metadata(metadata)


@pytest.mark.parametrize(
    "experts",
    ["3", "null", '"13"', "[3, 1]", "[1, 1]", "[-1, 1]", "[1, 5]", '["1"]', "[[1]]", "[1.5]"],
)
def test_experts_that_cannot_be_are_damage(experts):
    with pytest.raises(ValueError, match="damaged metadata"):
        PreparedMetadata.of_metadata(METADATA | {"experts": experts})


@pytest.mark.parametrize("config", ["3", "null", "[]", "{}", '{"n_routed_experts": "5"}'])
def test_a_config_that_is_none_is_damage(config):
    with pytest.raises(ValueError, match="damaged metadata"):
        PreparedMetadata.of_metadata(METADATA | {"config": config})


@pytest.mark.parametrize(("field", "value"), OTHERS.items())
def test_a_config_that_differs_is_refused_by_field_and_values(field, value):
    other = replace(SMALL, **{field: value})
    prepared, loaded = SMALL.to_dict(), other.to_dict()
    with pytest.raises(ValueError, match=r"^prepared for") as refusal:
        PREPARED.check(other)
    name = next(name for name in sorted(prepared) if prepared[name] != loaded[name])
    shown = [list(v) if isinstance(v, tuple) else v for v in (prepared[name], loaded[name])]
    assert f"{name} = {shown[0]!r}, the config has {shown[1]!r}" in str(refusal.value)


def test_every_field_of_a_config_is_checked_but_those_that_say_nothing_of_weights():
    unchecked = {field.name for field in fields(MiMoConfig)} - OTHERS.keys() - FREE
    assert unchecked == {"num_hidden_layers", "sliding_window"}  # with others, as below
    for other in (
        replace(SMALL, sliding_window=9),
        replace(SMALL, num_hidden_layers=2, hybrid_layer_pattern=(0, 1), moe_layer_freq=(0, 1)),
    ):
        with pytest.raises(ValueError, match=r"^prepared for \w+ = "):
            PREPARED.check(other)


def test_what_says_nothing_of_weights_may_differ():
    other = {"eos_token_id": 5, "initializer_range": 1.0, "max_position_embeddings": 9}
    other |= {"fused_qkv_weight_order": "plain"}
    assert {*other, "num_devices"} == FREE
    PREPARED.check(replace(SMALL, **other, num_devices=5))


@pytest.mark.parametrize(
    "change", [{"shard": "8"}, {"shard": "-1"}, {"tensor_parallel": "0"}, {"shard": '"a"'}]
)
def test_a_shard_that_cannot_be_is_damage(change):
    split = {"expert_parallel": "8", "tensor_parallel": "4", "shard": "7"}
    assert PreparedMetadata.of_metadata(METADATA | split).shard_spec == ShardSpec(3, 4, 7, 8)
    with pytest.raises(ValueError, match="damaged metadata"):
        PreparedMetadata.of_metadata(METADATA | split | change)


@pytest.mark.parametrize("change", [{"format_version": "9"}, {"config": "{}"}, {"target": "{"}])
def test_loading_names_the_file_of_what_it_refuses(tmp_path, change):
    file = tmp_path / "x.safetensors"
    save_file({"x": np.zeros(1, np.float32)}, file, METADATA | change)
    with pytest.raises(ValueError, match=r"x\.safetensors: prepared weights"):
        load_weights(file, SMALL)


def test_loading_another_models_weights_names_file_and_field(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file({"x": np.zeros(1, np.float32)}, file, METADATA)
    with pytest.raises(ValueError, match=r"x\.safetensors: prepared for vocab_size = 9, .* 10;"):
        load_weights(file, replace(SMALL, vocab_size=10))


@pytest.mark.parametrize(
    "other",
    [
        {"format": "pt"},
        replace(PREPARED, source_digest="ab12").to_metadata(),
        replace(PREPARED, revision="4567").to_metadata(),
    ],
    ids=["another program", "another source", "another commit"],
)
def test_files_of_two_preparations_are_refused_by_name(tmp_path, other):
    for file, metadata in {"a": METADATA, "b": METADATA, "c": other}.items():
        tensor = {file: np.zeros(1, np.float32)}
        save_file(tensor, tmp_path / f"{file}.safetensors", metadata)
    with pytest.raises(ValueError, match=rf"{tmp_path}: a\.\S+ and c\.safetensors are of two prep"):
        load_weights(tmp_path, SMALL)
