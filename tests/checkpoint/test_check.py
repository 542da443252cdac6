"""Tests of checks: what is required, what is refused, and scales that are checked when used."""

import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_weights
from mimo_v2_flash.checkpoint import check
from mimo_v2_flash.checkpoint.param_specs import FUSED, all_params, is_fused
from mimo_v2_flash.checkpoint.source import FolderSource
from mimo_v2_flash.config_presets import HubLayout
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.job import plan_conversion_job
from mimo_v2_flash.costs.meta import hub_tensors
from mimo_v2_flash.layers.device_layout import to_device_layout
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from mimo_v2_flash.quantization import fp8
from mimo_v2_flash.quantization.fp8 import BlockScaled
from mimo_v2_flash.quantization.fp8_projections import SCALE
from tests.support.damage import change_entry, change_index, cut, drop, overwrite
from tests.support.hub_checkpoint import RECIPE, write_hub_checkpoint
from tests.support.quantised import SMALL, model_tensors
from tests.support.tiny import tiny

SHARD = "model_1_linear_fc1.safetensors"
EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
KEYS = "model.layers.2.self_attn.k_proj.weight"  # whose scales cross into V
NO_SCALES = [np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0]

either_layout = pytest.mark.parametrize("fused", [False, True], ids=["split", "fused"])


# Names


def params_of(names: list[str], experts=range(5)):
    return list(all_params(SMALL, experts, fused=is_fused(names)))


@either_layout
def test_all_that_a_checkpoint_holds_is_required(fused):
    names = list(model_tensors(SMALL, fused=fused)[0])
    params = params_of(names)
    assert sorted(check.check_names("x", params, names).required) == sorted(names)


def test_what_is_no_parameter_is_refused_but_for_mtp_and_towers():
    names = list(model_tensors(SMALL)[0])
    mtp = ["model.mtp.layers.0.eh_proj.weight", f"model.mtp.layers.0.{FUSED}"]
    towers = ["visual.blocks.0.qkv.weight", "audio_encoder.norm.weight"]
    few = [name for name in names if ".experts." not in name or ".experts.3." in name]
    params = params_of(names + mtp, [3])
    checked = check.check_names("x", params, [*towers, *few, *mtp])
    assert sorted(checked.required) == sorted(few)
    assert checked.left_out == {"visual.*": 1, "audio_encoder.*": 1, "model.mtp.*": 2}
    assert checked.describe_left_out() == (
        "tensors left out: 1 of visual.*, 1 of audio_encoder.*, 2 of model.mtp.*"
    )
    for other in (EXPERT.replace("3", "4"), "extra_scale_inv", "visual", "model.mtp", "x.visual.w"):
        with pytest.raises(ValueError, match=rf"^x: {other}: 1 tensor unexpected under this conf"):
            check.check_names("x", params, [*towers, *few, *mtp, other])


@either_layout
@given(st.data())
def test_a_head_that_lacks_a_tensor_is_no_head_nor_are_later_ones(fused, data):
    infos = hub_tensors(SMALL, HubLayout(fused), mtp_heads=3)
    missing = data.draw(st.sampled_from([n for n in infos if n.startswith("model.mtp.")]))

    def heads(names: set[str]) -> int:
        return check.count_mtp_heads(SMALL, names, lambda few: {name: infos[name] for name in few})

    assert heads(set(infos)) == 3
    assert heads(infos.keys() - {missing}) == int(missing.split(".")[3])


def test_the_rest_of_the_whole_model_is_left_out_and_nothing_else():
    names = list(model_tensors(SMALL)[0])
    params, whole = params_of(names, [3]), params_of(names)
    checked = check.check_names("x", params, names, whole)
    few = [name for name in names if ".experts." not in name or ".experts.3." in name]
    assert sorted(checked.required) == sorted(few)
    assert checked.left_out == {"experts and layers that are not requested": len(names) - len(few)}
    for other in (EXPERT.replace("3", "5"), EXPERT.replace("weight", "bias")):
        with pytest.raises(ValueError, match=rf"^x: {other}: 1 tensor unexpected under this conf"):
            check.check_names("x", params, [*names, other], whole)


def test_what_is_missing_is_named_and_counted():
    names = list(model_tensors(SMALL)[0])
    params = params_of(names)
    with pytest.raises(
        ValueError, match=rf"^x: {EXPERT}: 1 tensor missing, which the config asks for"
    ):
        check.check_names("x", params, [name for name in names if name != EXPERT])
    with pytest.raises(ValueError, match=r"^x: model\S+, .* and 27 more: 30 tensors missing"):
        check.check_names("x", params, [name for name in names if ".experts." not in name])


def test_scales_are_required_where_there_are_any():
    plain = [param.name for param in params_of([])]
    assert check.check_names("x", params_of(plain), plain).required == plain


# Scales


@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from([64, 128]))
def test_a_plain_grid_has_a_scale_for_each_block(rows, columns, height):
    grid = len(range(0, rows, height)), len(range(0, columns, 128))
    new_height = fp8.plain_height("w", (rows, columns), grid)
    assert len(range(0, rows, new_height)) == grid[0]
    for other in ((grid[0] + rows, grid[1]), (grid[0], grid[1] + 1), grid[:1], (*grid, 1)):
        with pytest.raises(ValueError, match=r"^w: \(\d+, \d+\) has scales \(.*\), expected \("):
            fp8.plain_height("w", (rows, columns), other)


@pytest.mark.parametrize("value", NO_SCALES)
def test_a_scale_is_a_positive_number(value):
    scale = np.full((3, 2), np.finfo(np.float32).tiny, np.float32)
    weight = BlockScaled(np.ones((300, 200), np.uint8), scale)
    fp8.check_scales("w_scale_inv", weight)
    scale[2, 1] = value
    with pytest.raises(ValueError, match=r"^w_scale_inv holds NaN, infinity, zero or a negative"):
        fp8.check_scales("w_scale_inv", weight)


@pytest.mark.parametrize("height", [64, 128])
@given(st.integers(0, 255), st.integers(0, 299), st.integers(0, 199), st.booleans())
def test_a_scale_may_be_zero_where_every_code_of_its_block_is(height, code, row, column, stacked):
    """Codes 0 and 128 are zero and minus zero; NaN times zero is NaN, and so refused."""
    codes = np.full((300, 200), 0x80, np.uint8)
    codes[::2] = 0
    scale = np.zeros((-(-300 // height), 2), np.float32)
    weight = BlockScaled(*((a[None] if stacked else a) for a in (codes, scale)), height)
    fp8.check_scales("w_scale_inv", weight)
    assert not weight.dequantize().any()
    codes[row, column] = code
    if code in (0, 0x80):
        fp8.check_scales("w_scale_inv", weight)
        return
    with pytest.raises(ValueError, match=r"^w_scale_inv holds NaN, infinity, zero or a negative"):
        fp8.check_scales("w_scale_inv", weight)
    scale[row // height, column // 128] = 1  # the others may stay zero
    fp8.check_scales("w_scale_inv", weight)


def mapped(scale: float = 1.0) -> fp8.MappedBlockScaled:
    code, scale_YX = np.ones((200, 3), np.uint8), np.full((2, 1), scale, np.float32)
    return fp8.MappedBlockScaled.map("x.safetensors: w", code, scale_YX)


def test_scales_are_checked_at_their_first_use_alone(monkeypatch):
    checked: list[str] = []
    monkeypatch.setattr(fp8, "check_scales", lambda where, _: checked.append(where))
    weight = mapped()
    assert (weight.shape, weight.block_height, checked) == ((200, 3), 128, [])
    assert isinstance(weight, BlockScaled)
    assert weight.scale is weight.scale
    assert vars(weight)["scale"] is weight.scale  # an ordinary attribute from now on
    assert checked == ["x.safetensors: w_scale_inv"]


def test_a_bad_scale_is_refused_at_every_use():
    weight = mapped(0.0)
    for _ in range(3):
        with pytest.raises(ValueError, match=r"^x\.safetensors: w_scale_inv holds NaN, infinity"):
            _ = weight.scale


@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_threads_that_use_a_weight_first_get_its_scales_or_are_all_refused(scale):
    weight, results = mapped(scale), []
    barrier = threading.Barrier(8)

    def use() -> None:
        barrier.wait()
        try:
            results.append(weight.scale)
        except ValueError as error:
            results.append(str(error))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert {type(result) for result in results} == {np.ndarray if scale > 0 else str}


# Loading and preparing


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_hub_checkpoint(tiny(RECIPE).oracle, tmp_path_factory.mktemp("hub")).folder


def damaged(folder: Path, tmp_path: Path, damage) -> Path:
    damage(copied := Path(shutil.copytree(folder, tmp_path / "damaged")))
    return copied


def model_of(folder: Path, **options) -> MiMoV2FlashModel:
    config = MiMoConfig.from_pretrained(folder)
    return MiMoV2FlashModel(load_weights(folder, config), config, **options)


def prepare(folder: Path, output: Path) -> None:
    source, config = FolderSource(folder), MiMoConfig.from_pretrained(folder)
    encoding, experts = Encoding("fp8", "cpu"), tuple(range(RECIPE.experts))
    job = plan_conversion_job(source, config, output, encoding, experts)
    job.run(workers=2, advance=id)


def scale_of(file: str, name: str, value: float):
    return overwrite(file, np.float32(value).tobytes(), name + SCALE)


SAME = {
    "truncated": cut(SHARD, -9),
    "no safetensors": overwrite(SHARD, b"\x02" + b"\0" * 7 + b"[]"),
    "not in its file": drop(SHARD, EXPERT),
    "not in the index": change_index(lambda file_of: file_of.pop(EXPERT)),
    "another shape": change_entry(SHARD, EXPERT, shape=[136, 72]),
    "unknown dtype": change_entry(SHARD, EXPERT, dtype="I8"),
    "no scales": change_index(lambda file_of: file_of.pop(EXPERT + SCALE)),
    "scales of another dtype": change_entry(SHARD, EXPERT + SCALE, dtype="I32"),
    "scales of another grid": change_entry(SHARD, EXPERT + SCALE, shape=[2, 1]),
    "crossing scales of another grid": change_entry(
        "model_2.safetensors", KEYS + SCALE, shape=[2, 8]
    ),
    "crossing scale of zero": scale_of("model_2.safetensors", KEYS, 0.0),
}


@pytest.mark.parametrize("damage", SAME.values(), ids=SAME)
def test_loading_and_preparing_refuse_in_the_same_words(folder, tmp_path, damage):
    folder = damaged(folder, tmp_path, damage)
    config = MiMoConfig.from_pretrained(folder)
    with pytest.raises(ValueError, match=re.escape(str(folder))) as of_load:
        load_weights(folder, config)
    with pytest.raises(ValueError, match=re.escape(str(of_load.value))):
        prepare(folder, tmp_path / "output")


@pytest.mark.parametrize("value", NO_SCALES)
def test_a_bad_scale_of_an_expert_is_named_when_it_is_first_used_or_prepared(
    folder, tmp_path, value
):
    folder = damaged(folder, tmp_path, scale_of(SHARD, EXPERT, value))
    message = re.escape(f"{folder / SHARD}: {EXPERT}{SCALE} holds NaN, infinity, zero or a neg")
    weights = load_weights(folder, MiMoConfig.from_pretrained(folder))
    experts = weights.layers[1].feed_forward.experts
    assert [len(expert.scale) for expert in experts.w_gate_eFD] == [1] * 5
    with pytest.raises(ValueError, match=message):
        _ = experts.w_up_eFD[3].scale
    with pytest.raises(ValueError, match=message):
        to_device_layout(weights)
    with pytest.raises(ValueError, match=message):
        prepare(folder, tmp_path / "output")


def test_a_step_that_uses_a_bad_scale_is_refused_and_others_are_not(folder, tmp_path):
    sound = model_of(folder, expert_subset=[0, 1, 2, 4])
    folder = damaged(folder, tmp_path, scale_of(SHARD, EXPERT, np.nan))
    prompt = [list(range(20))]
    model = model_of(folder)
    for _ in range(2):
        with pytest.raises(ValueError, match=re.escape(f"{EXPERT}{SCALE} holds NaN")):
            model.forward(prompt)
    without = model_of(folder, expert_subset=[0, 1, 2, 4])
    np.testing.assert_array_equal(without.forward(prompt), sound.forward(prompt))


def test_ranks_that_use_a_bad_scale_are_refused_with_its_name(folder, tmp_path):
    folder, group = damaged(folder, tmp_path, scale_of(SHARD, EXPERT, np.nan)), ThreadGroup(2)
    options = {
        "expert_subset": range(1, 5),
        "plan": ParallelConfig(expert_parallel_size=2, data_parallel_size=2),
        "group": group,
    }
    with pytest.raises(Exception, match=re.escape(f"{EXPERT}{SCALE} holds NaN")):
        group.run(lambda _: model_of(folder, **options).forward([list(range(20))] * 2))


def test_scales_of_attention_are_checked_when_used_too(folder, tmp_path):
    folder = damaged(folder, tmp_path, scale_of("model_1.safetensors", Q_PROJ, 0.0))
    model = model_of(folder)
    message = re.escape(f"{folder / 'model_1.safetensors'}: {Q_PROJ}{SCALE} holds NaN")
    with pytest.raises(ValueError, match=message):
        model.forward([[1, 2, 3]])


def test_a_second_step_checks_nothing(folder, monkeypatch):
    checked: list[str] = []
    real = fp8.check_scales

    def counted(where: str, scale: np.ndarray) -> None:
        checked.append(where)
        real(where, scale)

    monkeypatch.setattr(fp8, "check_scales", counted)
    model, prompt = model_of(folder), [list(range(20))]
    assert checked == []
    model.forward(prompt)
    first = len(checked)
    assert first > 0
    assert len(set(checked)) == first
    model.forward(prompt)
    assert len(checked) == first
