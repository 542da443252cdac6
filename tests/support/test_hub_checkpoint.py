"""hub_checkpoint: names, files, dtypes, and scales that cross from K into V, as on the hub."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mimo_v2_flash.config import MiMoConfig
from tests.support.hub_checkpoint import INDEX, RECIPE, oracle_of, write_hub_checkpoint
from tests.support.tiny import tiny

ATTENTION = "self_attn.{}_proj.weight"
KV_HEADS, KEY, VALUE = RECIPE.num_kv_heads, RECIPE.head_dim, RECIPE.v_head_dim
FULL_LAYERS = ("model.layers.0.", "model.layers.2.")
SLIDING_LAYERS = ("model.layers.1.", *(f"model.mtp.layers.{index}." for index in range(3)))


@pytest.fixture(scope="module")
def model():
    return tiny(RECIPE).oracle


@pytest.fixture(scope="module")
def hub(model, tmp_path_factory):
    return write_hub_checkpoint(model, tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def fused(model, tmp_path_factory):
    return write_hub_checkpoint(model, tmp_path_factory.mktemp("fused"), fused=True)


def stored(checkpoint) -> dict[str, torch.Tensor]:
    return {name: t for file in shards(checkpoint) for name, t in load_file(file).items()}


def shards(checkpoint) -> list:
    return sorted(checkpoint.folder.glob("*.safetensors"))


def decoded(code, scale) -> np.ndarray:
    """Return codes times scales whose row y covers rows 128 y and on."""
    grid = scale.repeat_interleave(128, 0)[: code.shape[0]]
    return (code.float() * grid.repeat_interleave(128, 1)[:, : code.shape[1]]).numpy()


def part(tensors, prefix: str, letter: str) -> tuple[torch.Tensor, torch.Tensor]:
    name = prefix + ATTENTION.format(letter)
    return tensors[name], tensors[f"{name}_scale_inv"]


def test_scales_of_a_full_layer_cross_from_k_into_v(hub):
    tensors = stored(hub)
    for prefix in FULL_LAYERS:
        (k, k_scale), (v, v_scale) = part(tensors, prefix, "k"), part(tensors, prefix, "v")
        heads = zip(k.split(KEY), v.split(VALUE), k_scale.split(2), v_scale.split(1), strict=True)
        got = [
            np.split(decoded(torch.cat([k.float(), v.float()]), torch.cat(scale)), [KEY])
            for k, v, *scale in heads
        ]
        got_k, got_v = map(np.concatenate, zip(*got, strict=True))
        np.testing.assert_array_equal(got_k, hub.truth[prefix + ATTENTION.format("k")])
        np.testing.assert_array_equal(got_v, hub.truth[prefix + ATTENTION.format("v")])


def test_the_plain_grid_does_not_fit_k_and_is_wrong_in_the_upper_half_of_v(hub):
    tensors = stored(hub)
    for prefix in FULL_LAYERS:
        k, k_scale = part(tensors, prefix, "k")
        assert (len(k_scale), -(-len(k) // 128)) == (8, 6)
        naive = decoded(*part(tensors, prefix, "v")).reshape(KV_HEADS, VALUE, -1)
        truth = hub.truth[prefix + ATTENTION.format("v")].reshape(naive.shape)
        np.testing.assert_array_equal(naive[:, 64:], truth[:, 64:])
        wrong = np.abs(naive[:, :64] - truth[:, :64]).max(axis=(1, 2))
        assert (wrong > 0.005 * np.abs(truth).max()).all()


@pytest.mark.parametrize("prefix", SLIDING_LAYERS)
def test_the_plain_grid_is_right_in_sliding_layers_and_mtp_heads(hub, prefix):
    tensors = stored(hub)
    for letter, rows in (("q", 12), ("k", 12), ("v", 8)):
        code, scale = part(tensors, prefix, letter)
        assert len(scale) == rows
        truth = hub.truth[prefix + ATTENTION.format(letter)]
        np.testing.assert_array_equal(decoded(code, scale), truth)


def test_the_plain_grid_is_right_for_queries_and_feed_forwards(hub):
    tensors = stored(hub)
    names = [name for name, t in tensors.items() if t.dtype == torch.float8_e4m3fn]
    plain = [name for name in names if ".k_proj." not in name and ".v_proj." not in name]
    assert len(plain) == 3 + 3 + 2 * 3 * RECIPE.experts + 3 * 4
    for name in plain:
        truth = hub.truth[name]
        np.testing.assert_array_equal(decoded(tensors[name], tensors[f"{name}_scale_inv"]), truth)


def test_the_rest_is_the_model_rounded_to_bfloat16_but_for_the_router(hub, model, tmp_path):
    model.save_pretrained(tmp_path)
    original, tensors = load_file(tmp_path / "model.safetensors"), stored(hub)
    assert original.keys() == {name for name in hub.truth if not name.startswith("model.mtp.")}
    for name, t in original.items():
        if tensors[name].dtype != torch.float8_e4m3fn:
            expected = t if ".gate." in name else t.bfloat16()
            assert torch.equal(tensors[name], expected), name
            np.testing.assert_array_equal(hub.truth[name], expected.float().numpy())
        else:
            assert np.abs(hub.truth[name] - t.numpy()).max() < 0.05 * t.abs().max()


def test_shards_hold_what_the_hubs_hold(hub):
    counts = {file.stem: len(load_file(file)) for file in shards(hub)}
    assert counts == {
        "model_0": 15,
        "model_1": 12,
        "model_1_linear_fc1": 4 * RECIPE.experts,
        "model_1_linear_fc2": 2 * RECIPE.experts,
        "model_2": 11,
        "model_2_linear_fc1": 4 * RECIPE.experts,
        "model_2_linear_fc2": 2 * RECIPE.experts,
        "model_embedding": 1,
        "model_final": 2,
        "model_mtp": 60,
    }


@pytest.mark.parametrize("layout", ["hub", "fused"])
def test_the_index_names_every_tensor_and_its_shard(layout, request):
    checkpoint = request.getfixturevalue(layout)
    index = json.loads((checkpoint.folder / INDEX).read_text(encoding="utf-8"))
    shard_of = {name: file.name for file in shards(checkpoint) for name in load_file(file)}
    assert index["weight_map"] == shard_of
    size = sum(t.nbytes for t in stored(checkpoint).values())
    assert index["metadata"]["total_size"] == size


def test_dtypes_are_the_hubs(hub):
    expected = {
        "e_score_correction_bias": torch.float32,
        "gate.weight": torch.float32,
        "weight_scale_inv": torch.float32,
        "attention_sink_bias": torch.bfloat16,
        "o_proj.weight": torch.bfloat16,
        "eh_proj.weight": torch.bfloat16,
        "norm.weight": torch.bfloat16,
        "embed_tokens.weight": torch.bfloat16,
        "lm_head.weight": torch.bfloat16,
        "_proj.weight": torch.float8_e4m3fn,
    }
    for name, t in stored(hub).items():
        ending = next(ending for ending in expected if name.endswith(ending))
        assert t.dtype == expected[ending], name


def test_fused_attention_is_rank_after_rank_with_its_own_scale_rows(fused, hub):
    tensors = stored(fused)
    assert not any(".q_proj." in name for name in tensors)
    assert fused.truth.keys() == hub.truth.keys()
    for prefix in FULL_LAYERS + SLIDING_LAYERS:
        full = prefix in FULL_LAYERS
        names = [prefix + ATTENTION.format(letter) for letter in "qkv"]
        shards_of = zip(*(np.split(hub.truth[name], KV_HEADS) for name in names), strict=True)
        truth = [np.concatenate(rank) for rank in shards_of]
        code, scale = part(tensors, prefix, "qkv")
        # 384 query rows; 192 + 128 or twice as many of K and V.
        assert (len(truth[0]), len(scale)) == ((704, 6 * 4) if full else (1024, 8 * 4))
        pairs = zip(code.chunk(KV_HEADS), scale.chunk(KV_HEADS), strict=True)
        np.testing.assert_array_equal([decoded(*pair) for pair in pairs], truth)


@pytest.mark.parametrize("layout", ["hub", "fused"])
def test_config_json_is_the_hubs_and_describes_the_model(layout, request):
    checkpoint = request.getfixturevalue(layout)
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    assert MiMoConfig.from_pretrained(checkpoint.folder) == tiny(RECIPE).config
    assert config["hybrid_layer_pattern"] == [0, 1, 0]
    assert (config["sliding_window"], config["sliding_window_size"]) == (4, 4)
    assert len(config["quantization_config"]["ignored_layers"]) == 3 + 1
    assert config["model_type"] == {"hub": "mimo_v2_flash", "fused": "mimo_v2"}[layout]


def test_the_oracle_computes_with_the_truth(hub, model):
    oracle = oracle_of(model, hub)
    q = oracle.model.layers[2].self_attn.q_proj.weight.detach().numpy()
    np.testing.assert_array_equal(q, hub.truth["model.layers.2.self_attn.q_proj.weight"])
    with torch.no_grad():
        exact, rounded = (m(torch.arange(9)[None]).logits.numpy() for m in (model, oracle))
    assert 1e-4 < np.abs(rounded - exact).max() / np.ptp(exact) < 0.3


def test_two_kv_heads_on_a_rank_do_not_cross(model, tmp_path):
    checkpoint = write_hub_checkpoint(model, tmp_path, ranks=2)
    for letter, rows in (("k", 6), ("v", 4)):
        code, scale = part(stored(checkpoint), FULL_LAYERS[0], letter)
        assert len(scale) == rows
        truth = checkpoint.truth[FULL_LAYERS[0] + ATTENTION.format(letter)]
        np.testing.assert_array_equal(decoded(code, scale), truth)
