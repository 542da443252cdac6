"""Tests of load_weights: the tensors that transformers saved, memory-mapped, and its refusals."""

import copy
import mmap
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mimo_v2_flash.checkpoint import load_weights
from mimo_v2_flash.checkpoint.params import DenseWeights, ModelWeights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.kernels.softmax import NO_SINK
from tests.support.tiny import tiny

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"

narrow_routers = pytest.mark.filterwarnings("ignore:.*not F32. other experts may be chosen")


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def saved(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    oracle = copy.deepcopy(tiny().oracle)
    oracle.to(getattr(torch, request.param)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def float32(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    tiny().oracle.save_pretrained(folder)
    return folder


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def loaded(folder: Path) -> ModelWeights:
    return load_weights(folder, tiny().config)


def matrices(weights: ModelWeights) -> dict[str, np.ndarray]:
    """Return every memory-mapped matrix, by its name in the file."""
    stems = {"model.embed_tokens": weights.embedding_VD, "lm_head": weights.w_logits_VD}
    for index, layer in enumerate(weights.layers):
        prefix = f"model.layers.{index}"
        letters = zip("qkvo", layer.attention[:4], strict=True)
        stems |= {f"{prefix}.self_attn.{letter}_proj": w for letter, w in letters}
        gated = {f"{prefix}.mlp": layer.feed_forward}
        if not isinstance(layer.feed_forward, DenseWeights):
            experts = enumerate(layer.feed_forward.experts)
            gated = {f"{prefix}.mlp.experts.{number}": expert for number, expert in experts}
        for owner, (gate, up, down) in gated.items():
            stems |= {f"{owner}.gate_proj": gate, f"{owner}.up_proj": up}
            stems |= {f"{owner}.down_proj": down}
    return {f"{stem}.weight": w for stem, w in stems.items()}


def others(weights: ModelWeights) -> dict[str, np.ndarray]:
    """Return every array that is converted to float32, by its name in the file."""
    arrays = {"model.norm.weight": weights.final_norm_D}
    for index, layer in enumerate(weights.layers):
        prefix = f"model.layers.{index}"
        arrays[f"{prefix}.input_layernorm.weight"] = layer.attention_norm_D
        arrays[f"{prefix}.post_attention_layernorm.weight"] = layer.feed_forward_norm_D
        if tiny().config.layers[index].attention.has_sink:
            arrays[f"{prefix}.self_attn.attention_sink_bias"] = layer.attention.sink_H
        if not isinstance(layer.feed_forward, DenseWeights):
            arrays[f"{prefix}.mlp.gate.weight"] = layer.feed_forward.w_router_ED
            arrays[f"{prefix}.mlp.gate.e_score_correction_bias"] = layer.feed_forward.bias_E
    return arrays


@narrow_routers
def test_every_saved_tensor_is_in_its_field(saved):
    weights = loaded(saved)
    arrays = matrices(weights) | others(weights)
    expected = tensors_of(saved)
    assert arrays.keys() == expected.keys()
    for name, tensor in expected.items():
        value = arrays[name].astype(np.float32)
        np.testing.assert_array_equal(value, tensor.float().numpy(), err_msg=name)


@narrow_routers
def test_matrices_stay_in_the_file_and_in_its_dtype(saved):
    stored = {torch.float32: np.float32, torch.bfloat16: ml_dtypes.bfloat16}
    tensors = tensors_of(saved)
    for name, matrix in matrices(loaded(saved)).items():
        assert matrix.dtype == stored[tensors[name].dtype]
        assert not matrix.flags.writeable
        base = matrix
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base, mmap.mmap), name


@narrow_routers
def test_the_rest_is_float32(saved):
    arrays = others(loaded(saved))
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    assert len(arrays) == 1 + 2 * 5 + 3 + 2 * 3


def test_a_layer_without_sinks_has_no_sink(float32):
    for spec, layer in zip(tiny().config.layers, loaded(float32).layers, strict=True):
        sink_H = layer.attention.sink_H
        assert (sink_H.shape, sink_H.dtype) == ((spec.attention.num_heads,), np.float32)
        assert (sink_H == NO_SINK).all() != spec.attention.has_sink


def test_shards_and_a_single_file_are_one_model(float32, tmp_path):
    tiny().oracle.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    whole = matrices(loaded(float32))
    for other in (tmp_path, float32 / "model.safetensors"):
        for name, matrix in matrices(loaded(other)).items():
            np.testing.assert_array_equal(matrix, whole[name])


def test_incomplete_mtp_heads_are_left_out_with_a_warning(float32, tmp_path):
    mtp = {
        "model.mtp.layers.0.eh_proj.weight": torch.ones(3, 5),
        "model.mtp.layers.2.mlp.up_proj.weight": torch.ones(3, 5).to(torch.float8_e4m3fn),
        "model.mtp.layers.2.mlp.up_proj.weight_scale_inv": torch.ones(1, 1),
    }
    save_file(tensors_of(float32) | mtp, tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match=r"tensors left out: 3 of model\.mtp\.\*$"):
        weights = loaded(tmp_path)
    assert weights.mtp == ()
    np.testing.assert_array_equal(matrices(weights)[Q_PROJ], matrices(loaded(float32))[Q_PROJ])


def without(name: str):
    return lambda tensors: tensors.pop(name)


def put(name: str, change):
    return lambda tensors: tensors.update({name: change(tensors.get(name)).contiguous()})


REFUSED = {
    "missing": (without(Q_PROJ), rf"{Q_PROJ}: 1 tensor missing"),
    "missing sink": (
        without("model.layers.1.self_attn.attention_sink_bias"),
        r"model\.layers\.1\.self_attn\.attention_sink_bias: 1 tensor missing",
    ),
    "renamed": (
        lambda tensors: tensors.update(extra=tensors.pop("lm_head.weight")),
        r"lm_head\.weight: 1 tensor missing",
    ),
    "one expert more": (
        put("model.layers.1.mlp.experts.7.up_proj.weight", lambda _: torch.ones(13, 23)),
        r"model\.layers\.1\.mlp\.experts\.7\.up_proj\.weight: 1 tensor unexpected",
    ),
    "sink in a full layer": (
        put("model.layers.0.self_attn.attention_sink_bias", lambda _: torch.ones(8)),
        r"model\.layers\.0\.self_attn\.attention_sink_bias: 1 tensor unexpected",
    ),
    "transposed": (put(Q_PROJ, torch.t), rf"model\.safetensors: {Q_PROJ} is \(23, 88\)"),
    "one row less": (put(Q_PROJ, lambda w: w[1:]), rf"{Q_PROJ} is \(87, 23\), .* \(88, 23\)"),
    "flat": (put(Q_PROJ, torch.flatten), rf"model\.safetensors: {Q_PROJ} is \(2024,\)"),
    "double precision": (put(Q_PROJ, torch.Tensor.double), rf"model\.safetensors: {Q_PROJ}: .*F64"),
    "fp8 without scales": (
        put(Q_PROJ, lambda w: w.to(torch.float8_e4m3fn)),
        rf"model\.safetensors: {Q_PROJ} is .* and has no scales",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_by_name_and_nothing_is_changed(
    float32, tmp_path, change, message
):
    tensors = tensors_of(float32)
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=message) as refusal:
        loaded(tmp_path)
    assert str(tmp_path) in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_many_missing_tensors_are_counted(float32, tmp_path):
    tensors = {name: t for name, t in tensors_of(float32).items() if ".experts." not in name}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"gate_proj\.weight, .* and 60 more: 63 tensors missing"):
        loaded(tmp_path)


def test_another_model_is_refused(float32):
    with pytest.raises(ValueError, match=r"tensors missing, which the config asks for"):
        load_weights(float32, MiMoConfig())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        loaded(float32 / "nowhere")
