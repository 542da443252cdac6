"""Dtypes that files of the world have: scales and tensors in half precision, routers in bfloat16.

Whatever a file stores in a narrower float, the model is the one whose values were rounded to it
before they were stored in float32: when loaded, prepared, in shards, and through joined scales.
"""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_weights
from mimo_v2_flash.checkpoint.param_specs import ROUTER
from mimo_v2_flash.checkpoint.source import FolderSource, open_checkpoint
from mimo_v2_flash.checkpoint.subset import shard_weights
from mimo_v2_flash.convert.encoding import STORED, Encoding
from mimo_v2_flash.convert.job import plan_conversion_job
from mimo_v2_flash.execution.pytree import tree_arrays
from mimo_v2_flash.layers.device_layout import to_device_layout
from mimo_v2_flash.parallel_config import all_shard_specs
from mimo_v2_flash.quantization.fp8_projections import SCALE
from tests.support.quantised import SMALL, model_tensors

# Heads, experts, dense widths and vocabulary divide over two ranks.
CONFIG = replace(SMALL, intermediate_size=256, vocab_size=10, n_routed_experts=6)
TENSORS = {fused: model_tensors(CONFIG, fused=fused)[0] for fused in (False, True)}
NARROW = (None, ml_dtypes.bfloat16, np.float16)  # None: as the hub stores it
EXPERTS = tuple(range(CONFIG.n_routed_experts))
narrowings = st.builds(
    lambda seed, share: (np.random.default_rng(seed), share),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.2, 0.7, 1.0]),
)


def written(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    """Write a checkpoint of one file without an index; uint8 are codes."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = ml_dtypes.float8_e4m3fn
    arrays = {n: a.view(codes) if a.dtype == np.uint8 else a for n, a in tensors.items()}
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    return folder


def narrowed(tensors: dict, generator: np.random.Generator, share: float) -> tuple[dict, dict]:
    """Return tensors of which some are narrower floats, and the same values in float32."""
    narrow, wide = dict(tensors), dict(tensors)
    for name, array in tensors.items():
        dtype = NARROW[generator.integers(1, 3)] if generator.random() < share else None
        if dtype is not None and array.dtype != np.uint8:
            narrow[name] = array.astype(np.float32).astype(dtype)
            wide[name] = narrow[name].astype(np.float32)
    return narrow, wide


def arrays_of(folder: Path, *, shards: int = 1) -> list[dict[str, np.ndarray]]:
    """Return the arrays that are loaded, in float32 where they are floats, for each shard."""
    weights = load_weights(folder, CONFIG)
    specs = all_shard_specs(1, shards)
    return [in_float32(tree_arrays(shard_weights(weights, CONFIG, spec))) for spec in specs]


def in_float32(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n: a if a.dtype == np.uint8 else a.astype(np.float32) for n, a in arrays.items()}


def prepared(folder: Path, dtype: str, **split: int) -> list[dict[str, np.ndarray]]:
    """Return the tensors that are prepared, in float32 where they are floats, for each shard."""
    config, output = MiMoConfig.from_pretrained(folder), folder / f"{dtype}{split}"
    encoding = Encoding(dtype, "cpu")
    job = plan_conversion_job(FolderSource(folder), config, output, encoding, EXPERTS, **split)
    job.run(workers=1, advance=id)
    shards = sorted({file.parent for file in output.rglob("*.safetensors")})
    return [in_float32(dict(open_checkpoint(shard))) for shard in shards]


def assert_equal(actual: list[dict], expected: list[dict]) -> None:
    for shard, other in zip(actual, expected, strict=True):
        assert shard.keys() == other.keys()
        for name, array in shard.items():
            np.testing.assert_array_equal(array, other[name], name)


@pytest.fixture(autouse=True)
def routers_may_be_narrow():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*not F32: other experts may be chosen")
        yield


@pytest.mark.parametrize("fused", [False, True], ids=["split", "fused"])
@settings(max_examples=8)
@given(narrowings)
def test_loaded_it_is_the_model_of_rounded_values(tmp_path_factory, fused, narrowing):
    folder = tmp_path_factory.mktemp("narrow")
    narrow, wide = narrowed(TENSORS[fused], *narrowing)
    a, b = written(folder / "a", narrow), written(folder / "b", wide)
    for shards in (1, 2):
        assert_equal(arrays_of(a, shards=shards), arrays_of(b, shards=shards))
    on_device = [
        in_float32(
            {
                n: x.view(np.uint8) if x.dtype.itemsize == 1 else x
                for n, x in tree_arrays(to_device_layout(load_weights(f, CONFIG))).items()
            }
        )
        for f in (a, b)
    ]
    assert_equal(on_device[:1], on_device[1:])


@pytest.mark.parametrize("fused", [False, True], ids=["split", "fused"])
@settings(max_examples=4)
@given(narrowings, st.sampled_from(list(STORED)), st.sampled_from([1, 2]))
def test_prepared_it_is_the_model_of_rounded_values(
    tmp_path_factory, fused, narrowing, dtype, ranks
):
    folder = tmp_path_factory.mktemp("narrow")
    narrow, wide = narrowed(TENSORS[fused], *narrowing)
    a, b = written(folder / "a", narrow), written(folder / "b", wide)
    split = {"expert_parallel": ranks, "tensor_parallel": ranks}
    assert_equal(prepared(a, dtype, **split), prepared(b, dtype, **split))


def test_what_was_narrow_is_held_in_float32(tmp_path):
    wanted = dict.fromkeys(TENSORS[False], np.float16)
    half = {
        name: array if array.dtype == np.uint8 else array.astype(wanted[name])
        for name, array in TENSORS[False].items()
    }
    weights = load_weights(written(tmp_path, half), CONFIG)
    assert {array.dtype for array in tree_arrays(weights).values()} == {
        np.dtype(np.uint8),
        np.dtype(np.float32),
    }


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.0])
@pytest.mark.parametrize("dtype", NARROW[1:])
def test_a_narrow_scale_is_checked_like_any_other(tmp_path, dtype, value):
    name = "model.layers.1.self_attn.q_proj.weight"
    scale = TENSORS[False][name + SCALE].astype(dtype)
    scale[1, 1] = value
    folder = written(tmp_path, TENSORS[False] | {name + SCALE: scale})
    weights = load_weights(folder, CONFIG)
    message = rf"{name}{SCALE} holds NaN, infinity, zero or a negative number"
    with pytest.raises(ValueError, match=message):
        _ = weights.layers[1].attention.w_q_OD.scale
    with pytest.raises(ValueError, match=message):
        prepared(folder, "fp8")


def logits(folder: Path) -> np.ndarray:
    return MiMoV2FlashModel(load_weights(folder, CONFIG), CONFIG).forward([[1, 5, 3, 7]])


ZERO = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.experts.3.up_proj")


@pytest.mark.parametrize("stem", ZERO)
@pytest.mark.parametrize("code", [0x00, 0x80, 0x01, 0x7F])
def test_blocks_of_zeros_may_have_scales_of_zero_everywhere(tmp_path, stem, code):
    """In layer 2 the scales of K cross into V, so that both must be zero there."""
    names = [f"model.layers.2.{stem}.weight"]
    if stem.endswith(("k_proj", "v_proj")):
        names = [f"model.layers.2.self_attn.{letter}_proj.weight" for letter in "kv"]
    tensors = dict(TENSORS[False])
    for name in names:
        tensors[name] = np.zeros_like(tensors[name])
        tensors[name + SCALE] = np.zeros_like(tensors[name + SCALE])
    bad = f"model.layers.2.{stem}.weight"
    tensors[bad][-1, -1] = code
    folder = written(tmp_path, tensors)
    if code in (0x00, 0x80):
        scales = {name + SCALE: np.ones_like(tensors[name + SCALE]) for name in names}
        ones = written(tmp_path / "ones", tensors | scales)
        np.testing.assert_array_equal(logits(folder), logits(ones))
        (made,) = prepared(folder, "float32")
        assert not any(np.any(made[name]) for name in names)
        return
    message = rf"{bad}.* holds NaN" if code == 0x7F else rf"{bad}{SCALE} holds NaN, infinity"
    with pytest.raises(ValueError, match=message):
        prepared(folder, "fp8")
    with pytest.raises(ValueError, match=rf"{bad}{SCALE} holds NaN, infinity, zero or a neg"):
        arrays_of(folder)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("which", ["weight", "e_score_correction_bias"])
def test_a_rounded_router_or_selection_bias_is_taken_with_one_warning(tmp_path, which, dtype):
    narrow = [n for n in TENSORS[False] if n.endswith(f"{ROUTER}{which}")]
    rounded = {name: TENSORS[False][name].astype(dtype) for name in narrow}
    folder = written(tmp_path, TENSORS[False] | rounded)
    stored = {ml_dtypes.bfloat16: "BF16", np.float16: "F16"}[dtype]
    expected = (
        f"{folder / 'model.safetensors'}: {narrow[0]}, {narrow[1]}: 2 tensors stored as {stored}, "
        "not F32: other experts may be chosen"
    )
    for enter in (lambda: load_weights(folder, CONFIG), lambda: prepared(folder, "fp8")):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            enter()
        assert [str(warning.message) for warning in caught] == [expected]
    (made,) = prepared(folder, "bfloat16")
    for name, array in rounded.items():
        np.testing.assert_array_equal(made[name], array.astype(np.float32))
