"""The layouts of MiMo-V2.5 and V2.6, end to end: logits equal transformers' on the true weights.

Fused projections, rank by rank or plain, in FP8 or without scales; experts in MXFP4; routers in
bfloat16; scales in other files; towers and drafters beside the model.
"""

import json
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_torch

import prepare_weights
from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_model, load_weights
from mimo_v2_flash.checkpoint.params import MoEWeights
from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.parallel_config import all_shard_specs
from tests.support.family_checkpoint import (
    RECIPE,
    V2_5,
    V2_6,
    config_of,
    store,
    write,
    write_family,
)
from tests.support.hub_checkpoint import INDEX, HubCheckpoint, oracle_of
from tests.support.mtp_oracle import run_heads
from tests.support.oracle import UNDECIDED, assert_same_logits, oracle_output
from tests.support.shipped import FOLDER, dequantised, stored
from tests.support.tiny import KINDS, Recipe, Tiny, built, random_tokens, tiny

PLAIN = replace(V2_5, order="plain")
WORD = "fused_qkv_weight_order"
LAYOUTS = {
    "split": replace(V2_5, order="split"),
    "V2.5": V2_5,
    "V2.6": V2_6,
    "V2.5-FP4": replace(V2_6, router="float32"),
    "INT8 by row": replace(V2_5, order="split", experts="int8"),
    "FP8 by row": replace(V2_5, order="split", experts="channel"),
    "plain": PLAIN,
    "plain by word": replace(PLAIN, config=((WORD, "plain"),)),
    "bfloat16 by rank": replace(V2_5, qkv="bfloat16", config=((WORD, "interleaved"),)),
    "bfloat16 plain": replace(PLAIN, qkv="bfloat16", config=((WORD, "plain"),)),
    "float16 plain": replace(PLAIN, qkv="float16", config=((WORD, "plain"),)),
    "float32 converted": replace(
        PLAIN, qkv="float32", config=(("conversion_metadata", {"qkv_layout": "global_q_k_v"}),)
    ),
}
TOKENS = random_tokens(tiny(RECIPE), 20)


@pytest.fixture(scope="module", params=LAYOUTS, ids=str)
def family(request, tmp_path_factory) -> HubCheckpoint:
    folder = tmp_path_factory.mktemp("family")
    return write_family(tiny(RECIPE).oracle, folder, LAYOUTS[request.param])


@pytest.fixture(scope="module")
def v2_6(tmp_path_factory) -> HubCheckpoint:
    return write_family(tiny(RECIPE).oracle, tmp_path_factory.mktemp("v2_6"), V2_6)


def logits(path: Path, token_T: np.ndarray = TOKENS) -> np.ndarray:
    config = MiMoConfig.from_pretrained(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of towers
        model = MiMoV2FlashModel(load_weights(path, config), config)
    return model.forward([token_T])[0]


def expected(family: HubCheckpoint) -> np.ndarray:
    oracle = oracle_of(tiny(RECIPE).oracle, family)
    config = MiMoConfig.from_pretrained(family.folder)
    logits_TV, lead = oracle_output(Tiny(oracle, config, tiny(RECIPE).weights), TOKENS)
    assert lead > UNDECIDED
    return logits_TV


def prepare(family: HubCheckpoint, folder: Path, *options: str) -> Path:
    arguments = ["--checkpoint", str(family.folder), "--output", str(folder), *options]
    assert prepare_weights.main(arguments) == 0
    return folder


def test_logits_are_transformers_on_the_dequantised_weights(family):
    assert_same_logits(logits(family.folder), expected(family))


@pytest.mark.parametrize("dtype", ["fp8", "float32"])
def test_prepared_weights_have_the_logits_of_the_checkpoint(family, tmp_path, dtype):
    assert_same_logits(logits(prepare(family, tmp_path, "--dtype", dtype)), expected(family))


def test_shards_are_slices_of_the_checkpoint(family, tmp_path):
    prepare(family, tmp_path, "--tensor-parallel", "2")
    config = MiMoConfig.from_pretrained(tmp_path)
    for shard in all_shard_specs(2, 2):
        layers = load_weights(tmp_path, config, share=shard).layers
        for index, layer in enumerate(layers):
            for letter, weight in zip("qkv", layer.attention[:3], strict=True):
                whole = family.truth[f"model.layers.{index}.self_attn.{letter}_proj.weight"]
                rank = np.split(whole, 2)[shard.tensor_parallel_rank]
                np.testing.assert_array_equal(numbers(weight), rank)


def numbers(weight) -> np.ndarray:
    return weight.dequantize() if hasattr(weight, "dequantize") else weight.astype(np.float32)


@st.composite
def geometries(draw) -> Recipe:
    ranks = draw(st.sampled_from([2, 4, 8]))
    return Recipe(
        layers=tuple(draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))),
        seed=draw(st.integers(0, 2**32 - 1)),
        num_kv_heads=ranks,
        queries_per_kv_head=2 * draw(st.integers(1, 2)),
        head_dim=64 * draw(st.integers(1, 4)),
        v_head_dim=64 * draw(st.integers(1, 3)),
        rotary_dim=2 * draw(st.integers(1, 32)),
        hidden=32 * draw(st.integers(1, 8)),
        expert_width=32 * draw(st.integers(1, 4)),
        experts=draw(st.integers(2, 7)),
        experts_per_token=2,
    )


@settings(max_examples=20)
@given(geometries(), st.sampled_from(["interleaved", "plain"]), st.booleans())
def test_any_geometry_has_the_logits_of_transformers(recipe, order, is_v2_6):
    base = V2_6 if is_v2_6 else V2_5
    layout = replace(base, order=order, config=(*base.config, (WORD, order)))
    oracle = built(recipe)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        family = write_family(oracle, Path(folder), layout)
        config = MiMoConfig.from_pretrained(folder)
        model = Tiny(oracle_of(oracle, family), config, tiny(RECIPE).weights)
        token_T = random_tokens(model, 9)
        logits_TV, lead = oracle_output(model, token_T)
        assume(lead > UNDECIDED)
        assert_same_logits(logits(Path(folder), token_T), logits_TV)


# The shipped model, whose MTP heads are trained


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> dict[str, HubCheckpoint]:
    """Return mimo-tiny written in two layouts: the same codes, split and fused."""
    config = MiMoConfig.from_pretrained(FOLDER)
    weights = {n: w.numpy() for n, w in dequantised(stored(), config.num_key_value_heads).items()}
    folders = {}
    for order in ("split", "interleaved"):
        layout, folder = replace(V2_5, order=order), tmp_path_factory.mktemp(order)
        tensors, truth = store(weights, layout, config.num_key_value_heads)
        write(folder, tensors, config_of(config, layout))
        folders[order] = HubCheckpoint(folder, truth)
    return folders


@pytest.mark.filterwarnings("ignore:.*left out")
def test_drafts_are_accepted_as_often_as_of_the_split_layout(shipped):
    prompt, answers = list(b"for index in range(len(names)):"), {}
    for order, family in shipped.items():
        with Engine(load_model(family.folder), 1, draft_tokens=3) as engine:
            id_ = engine.submit(prompt, SamplingParams(max_tokens=60, temperature=0))
            tokens = engine.run()[id_].answers[0].tokens
            answers[order] = tokens, engine.stats.drafted, engine.stats.accepted
    assert answers["interleaved"] == answers["split"]
    assert answers["split"][2][0] > 10


@pytest.mark.filterwarnings("ignore:.*left out")
def test_heads_have_the_logits_of_the_split_layout(shipped):
    tokens = [list(b"the quick brown fox")]
    fused, split = (
        run_heads(load_model(shipped[order].folder), tokens, [19])
        for order in ("interleaved", "split")
    )
    for actual, expected_BTV in zip(fused, split, strict=True):
        assert_same_logits(actual[:, 4:], expected_BTV[:, 4:])


# MXFP4 and routers


def test_experts_stay_in_mxfp4_and_are_exact(v2_6, tmp_path):
    for folder in (v2_6.folder, prepare(v2_6, tmp_path)):
        layers = weights_of(folder).layers
        mixtures = {i: x.feed_forward for i, x in enumerate(layers) if is_mixture(x)}
        assert len(mixtures) == 2
        for index, mixture in mixtures.items():
            for expert, weights in enumerate(mixture.experts):
                for end, weight in zip(("gate", "up", "down"), weights, strict=True):
                    name = f"model.layers.{index}.mlp.experts.{expert}.{end}_proj.weight"
                    assert weight.format == "mxfp4"
                    np.testing.assert_array_equal(weight.dequantize(), v2_6.truth[name])


def test_a_router_in_bfloat16_and_its_bias_are_widened_exactly(v2_6, tmp_path):
    for folder in (v2_6.folder, prepare(v2_6, tmp_path)):
        for index, layer in enumerate(weights_of(folder).layers):
            if is_mixture(layer):
                prefix, mixture = f"model.layers.{index}.mlp.gate", layer.feed_forward
                router, bias = mixture.w_router_ED, mixture.bias_E
                assert (router.dtype, bias.dtype) == (np.float32, np.float32)
                np.testing.assert_array_equal(router, v2_6.truth[f"{prefix}.weight"])
                np.testing.assert_array_equal(bias, v2_6.truth[f"{prefix}.e_score_correction_bias"])


def test_towers_are_left_out_in_one_line_and_a_router_of_its_own_is_no_news(v2_6):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_weights(v2_6.folder, MiMoConfig.from_pretrained(v2_6.folder))
    (warning,) = caught
    assert "tensors left out" in str(warning.message)
    for tower in ("visual.*", "audio_encoder.*", "speech_embeddings.*"):
        assert f"1 of {tower}" in str(warning.message)


def weights_of(folder: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_weights(folder, MiMoConfig.from_pretrained(folder))


def is_mixture(layer) -> bool:
    return isinstance(layer.feed_forward, MoEWeights)


# Refused


def changed(family: HubCheckpoint, folder: Path, name: str, change) -> Path:
    """Return a copy of a checkpoint, one tensor of which is changed; None removes it."""
    shutil.copytree(family.folder, folder, dirs_exist_ok=True)
    index = json.loads((folder / INDEX).read_text())
    file = folder / index["weight_map"][name]
    tensors = read_file(file)
    tensors[name] = change(tensors[name]) if change else None
    if change is None:
        del tensors[name], index["weight_map"][name]
        (folder / INDEX).write_text(json.dumps(index))
    save_file(tensors, file, {"format": "pt"})
    return folder


def read_file(file: Path) -> dict:
    """Return a file's tensors; safetensors' NumPy has no 8-bit floats."""
    tensors = load_torch(file)
    kinds = {torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn, torch.bfloat16: ml_dtypes.bfloat16}
    return {
        name: tensor.view(torch.uint8).numpy().view(kinds[tensor.dtype])
        if tensor.dtype in kinds
        else tensor.numpy()
        for name, tensor in tensors.items()
    }


UP = "model.layers.1.mlp.experts.3.up_proj.weight"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (f"{UP}_scale", "is U8 and has no scales"),
        (UP, f"{UP}: 1 tensor missing"),
        ("model.layers.1.self_attn.qkv_proj.weight_scale_inv", "is F8_E4M3 and has no scales"),
        ("model.layers.2.mlp.up_proj.weight_scale_inv", "is F8_E4M3 and has no scales"),
    ],
)
def test_a_weight_without_its_scales_is_refused(v2_6, tmp_path, capsys, name, what):
    folder = changed(v2_6, tmp_path / "hub", name, None)
    with pytest.raises(ValueError, match=what):
        weights_of(folder)
    output = tmp_path / "prepared"
    assert prepare_weights.main(["--checkpoint", str(folder), "--output", str(output)]) == 2
    assert re.search(what, capsys.readouterr().err)
    assert not output.exists()


def test_a_scale_that_is_nan_is_refused_by_file_and_tensor(v2_6, tmp_path):
    folder = changed(v2_6, tmp_path, f"{UP}_scale", lambda scale: np.full_like(scale, 255))
    with pytest.raises(ValueError, match=rf"ep0_shard0\.safetensors: {UP}: .*holds NaN"):
        weights_of(folder).layers[1].feed_forward.experts[3].w_up_FD.dequantize()
