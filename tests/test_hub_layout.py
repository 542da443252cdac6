"""The hub's FP8 layout, end to end: logits equal transformers' on the dequantised weights.

Split and fused QKV, and prepared in every encoding. K and V scales read on a plain grid would be
noticed.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import prepare_weights
from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_weights
from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.checkpoint.source import FolderSource, open_checkpoint
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.job import plan_conversion_job
from mimo_v2_flash.convert.store import Store
from mimo_v2_flash.quantization.fp8 import BlockScaled
from tests.support.fp8_blocks import Arrays
from tests.support.hub_checkpoint import RECIPE, HubCheckpoint, oracle_of, write_hub_checkpoint
from tests.support.oracle import UNDECIDED, assert_same_logits, oracle_output
from tests.support.tiny import Tiny, built, random_tokens, tiny

BLOCK = 128
CONFIG, TOKENS = tiny(RECIPE).config, random_tokens(tiny(RECIPE), 20)
ENCODINGS = [
    *(("fp8", "cpu"), ("float32", "cpu"), ("bfloat16", "cpu")),
    *(("float32", "trainium2"), ("bfloat16", "trainium2")),
]
FULL_LAYERS = (0, 2)


@pytest.fixture(scope="module", params=[False, True], ids=["split", "fused"])
def hub(request, tmp_path_factory) -> HubCheckpoint:
    folder = tmp_path_factory.mktemp("hub")
    return write_hub_checkpoint(tiny(RECIPE).oracle, folder, fused=request.param)


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> HubCheckpoint:
    return write_hub_checkpoint(tiny(RECIPE).oracle, tmp_path_factory.mktemp("split"))


def logits(path: Path, **options: Any) -> np.ndarray:
    """Return this project's logits, with the config in the checkpoint's folder."""
    config = MiMoConfig.from_pretrained(path if path.is_dir() else path.parent)
    return running(load_weights(path, config), config, **options)


def running(weights: ModelWeights, config: MiMoConfig = CONFIG, **options: Any) -> np.ndarray:
    return MiMoV2FlashModel(weights, config, **options).forward([TOKENS])[0]


def oracle_logits(oracle: Any) -> np.ndarray:
    """Return transformers' logits, after asserting that float32 decides all expert choices."""
    logits_TV, lead = oracle_output(Tiny(oracle, CONFIG, tiny(RECIPE).weights), TOKENS)
    assert lead > UNDECIDED
    return logits_TV


def transformers_on(truth: Arrays) -> np.ndarray:
    return oracle_logits(oracle_of(tiny(RECIPE).oracle, HubCheckpoint(Path(), truth)))


def prepared(hub: HubCheckpoint, folder: Path, *options: str) -> Path:
    arguments = ["--checkpoint", str(hub.folder), "--output", str(folder), *options]
    assert prepare_weights.main(arguments) == 0
    return folder


def dequantised(path: Path) -> Arrays:
    """Return the tensors of a prepared checkpoint in float32, each scale over its block."""
    stored, tensors = open_checkpoint(path), {}
    for name in stored:
        scale = stored.get(f"{name}_scale_inv")
        if scale is not None:
            code = stored[name].view(ml_dtypes.float8_e4m3fn).astype(np.float32)
            height = BLOCK if len(scale) == -(-len(code) // BLOCK) else 64
            rows = np.repeat(scale, height, axis=0)[: len(code)]
            tensors[name] = code * np.repeat(rows, BLOCK, axis=1)[:, : code.shape[1]]
        elif not name.endswith("_scale_inv"):
            tensors[name] = stored[name].astype(np.float32)
    return tensors


# The hub's layout


def test_its_logits_are_transformers_on_the_dequantised_weights(hub):
    assert_same_logits(logits(hub.folder), transformers_on(hub.truth))


def naive(weights: ModelWeights, part: str, tensors: Any) -> ModelWeights:
    """Return the weights with `w_k_OD` or `w_v_OD` of full layers on one contiguous grid."""
    letter, layers = part[2], list(weights.layers)
    for index in FULL_LAYERS:
        name = f"model.layers.{index}.self_attn.{letter}_proj.weight"
        code, scale = tensors[name], tensors[f"{name}_scale_inv"]
        contiguous = BlockScaled(code, np.ascontiguousarray(scale[: -(-len(code) // BLOCK)]))
        attention = layers[index].attention._replace(**{part: contiguous})
        layers[index] = layers[index]._replace(attention=attention)
    return weights._replace(layers=tuple(layers))


@pytest.mark.parametrize("part", ["w_k_OD", "w_v_OD"])
def test_reading_k_or_v_naively_moves_the_logits(split, part):
    weights = load_weights(split.folder, CONFIG)
    wrong = naive(weights, part, open_checkpoint(split.folder))
    expected = transformers_on(split.truth)
    assert np.abs(running(wrong) - expected).max() > 1e-2 * np.ptp(expected)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same_logits(running(wrong), expected)


# Prepared checkpoints


@pytest.mark.parametrize(("dtype", "target"), ENCODINGS)
def test_prepared_weights_are_those_of_the_checkpoint(hub, tmp_path, dtype, target):
    actual = dequantised(prepared(hub, tmp_path, "--dtype", dtype, "--target", target))
    truth = hub.truth
    if dtype == "bfloat16":
        truth = {name: in_bfloat16(name, value) for name, value in truth.items()}
    assert actual.keys() == truth.keys()
    for name, value in truth.items():
        np.testing.assert_array_equal(actual[name], value, name)
    assert_same_logits(logits(tmp_path), transformers_on(truth))


def in_bfloat16(name: str, value: np.ndarray) -> np.ndarray:
    """Return a weight rounded to bfloat16; routers stay as they are."""
    if ".mlp.gate." in name:
        return value
    return value.astype(ml_dtypes.bfloat16).astype(np.float32)


def test_for_trainium2_16_codes_round_and_nothing_else(hub, tmp_path, capsys):
    actual = dequantised(prepared(hub, tmp_path, "--target", "trainium2"))
    tensors, truth = open_checkpoint(tmp_path), hub.truth
    rounded = 0
    for name, value in truth.items():
        error = np.abs(actual[name] - value)
        if f"{name}_scale_inv" not in tensors:
            assert not error.any()
            continue
        # The largest value that rounds is 15 x 2^-9 of the old scale, which is half of this one.
        scale = tensors[f"{name}_scale_inv"].max()
        assert error.max() <= 2.0**-10 * scale * (1 + 1e-5)
        assert (np.abs(value[error > 0]) <= 15 * 2.0**-10 * scale * (1 + 1e-5)).all()
        assert (tensors[name] & 0x7F).max() <= 0x77  # 240
        rounded += np.count_nonzero(error)
    assert 0 < rounded < 1e-3 * sum(value.size for value in truth.values())
    assert f"{rounded:,} FP8 values rounded" in capsys.readouterr().out
    assert_same_logits(logits(tmp_path), transformers_on(actual))
    # So few codes round, and by so little, that even the original weights agree.
    assert_same_logits(logits(tmp_path), transformers_on(truth))


def test_a_subset_prepared_is_a_subset_at_load(hub, tmp_path):
    prepared(hub, tmp_path, "--expert-subset", "1", "3-4")
    expected = logits(hub.folder, expert_subset=[1, 3, 4])
    assert load_weights(tmp_path, CONFIG).expert_ids == (1, 3, 4)
    np.testing.assert_array_equal(logits(tmp_path), expected)
    smaller = logits(tmp_path, expert_subset=[1, 4])
    np.testing.assert_array_equal(smaller, logits(hub.folder, expert_subset=[1, 4]))
    assert np.abs(expected - logits(hub.folder)).max() > 1e-2


def test_the_first_layers_are_the_model_that_transformers_builds_of_them(hub, tmp_path):
    prepared(hub, tmp_path, "--num-layers", "2")
    oracle = oracle_of(tiny(RECIPE).oracle, hub)
    shorter = built(replace(RECIPE, layers=RECIPE.layers[:2]))
    state = oracle.state_dict()
    shorter.load_state_dict({name: state[name] for name in shorter.state_dict()})
    assert_same_logits(logits(tmp_path), oracle_logits(shorter))


def test_a_prepared_folder_and_the_name_of_its_file_are_one_checkpoint(hub, tmp_path):
    file = prepared(hub, tmp_path) / "mimo_weights.safetensors"
    np.testing.assert_array_equal(logits(file), logits(tmp_path))


def test_a_prepared_checkpoint_in_many_files_opens_by_the_name_of_one(hub, tmp_path):
    source, encoding = FolderSource(hub.folder), Encoding("fp8", "cpu")
    job = plan_conversion_job(source, CONFIG, tmp_path, encoding, tuple(range(5)))
    metadata, states = job.prepared.to_metadata(), job.store.source_files
    store = Store(tmp_path, job.plan.outputs, metadata, source_files=states, largest_file=200_000)
    replace(job, store=store).run(workers=2, advance=lambda _: None)
    assert len(list(tmp_path.glob("mimo_weights-*-of-*.safetensors"))) > 5
    for path in (tmp_path, tmp_path / "mimo_weights.safetensors"):
        np.testing.assert_array_equal(logits(path), logits(hub.folder))
