"""Tests of plan_conversion: all parameters of a config, from either layout, and its refusals."""

from collections.abc import Callable

import numpy as np
import pytest

from mimo_v2_flash.checkpoint import param_specs
from mimo_v2_flash.checkpoint.safetensors_file import DTYPES, TensorInfo
from mimo_v2_flash.convert.encoding import STORED, TARGETS, Encoding
from mimo_v2_flash.convert.plan import ConversionPlan, plan_conversion
from mimo_v2_flash.quantization.fp8_projections import SCALE
from tests.support.disk import Disk, made
from tests.support.quantised import FULL_LAYERS, SMALL, model_tensors

EXPERTS = range(5)
NAME_OF = {dtype: name for name, dtype in DTYPES.items()}
Q, K, V, OUT = (f"model.layers.2.self_attn.{letter}_proj.weight" for letter in "qkvo")
QKV = f"model.layers.2.{param_specs.FUSED}"
UP = "model.layers.1.mlp.experts.3.up_proj.weight"
ROUTER = "model.layers.1.mlp.gate.weight"
NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"

Infos = dict[str, TensorInfo]


@pytest.fixture(scope="module", params=[False, True], ids=["split", "fused"])
def checkpoint(request) -> tuple[Disk, Infos, dict[str, np.ndarray]]:
    tensors, truth = model_tensors(SMALL, fused=request.param)
    disk = Disk()
    return disk, {n: disk.add(a, NAME_OF[a.dtype]) for n, a in tensors.items()}, truth


def model_infos(*, fused: bool = False) -> Infos:
    """Return the TensorInfo of a model's tensors, in files that do not exist."""
    tensors, _ = model_tensors(SMALL, fused=fused)
    return {
        name: TensorInfo(f"{name}.safetensors", NAME_OF[a.dtype], a.shape, 0, a.nbytes)
        for name, a in tensors.items()
    }


def plan_of(infos: Infos, encoding: Encoding | None = None) -> ConversionPlan:
    params = list(param_specs.all_params(SMALL, EXPERTS, fused=param_specs.is_fused(infos)))
    return plan_conversion(SMALL, params, infos, encoding or Encoding("fp8", "cpu"))


# Converted tensors


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("target", TARGETS)
def test_a_model_of_either_layout_becomes_the_split_one(checkpoint, dtype, target):
    disk, infos, truth = checkpoint
    encoding, halved = Encoding(dtype, target), (dtype, target) == ("fp8", "trainium2")
    result = made(disk, plan_of(infos, encoding), encoding)
    weights = {name for name in result.arrays if not name.endswith(SCALE)}
    assert weights == truth.keys()
    for name, value in truth.items():
        is_matrix = value.ndim == 2 and name not in {ROUTER, ROUTER.replace("1", "2")}
        expected = value.astype(DTYPES[STORED[dtype]]) if is_matrix and STORED[dtype] else value
        scale = result.arrays.get(name + SCALE, np.zeros(1)) if halved else np.zeros(1)
        error = np.abs(result.value(name) - expected.astype(np.float32))
        assert error.max() <= 2.0**-10 * scale.max() * (1 + 1e-5), name
    assert (encoding.rounded > 0) == halved


def test_scales_are_on_64_rows_where_they_crossed(checkpoint):
    _, infos, _ = checkpoint
    outputs = {output.name: output for output in plan_of(infos).outputs}
    for prefix in FULL_LAYERS:
        k, v = (outputs[f"{prefix}.self_attn.{x}_proj.weight_scale_inv"] for x in "kv")
        assert ((k.dtype, k.shape), (v.dtype, v.shape)) == (("F32", (12, 2)), ("F32", (8, 2)))
    assert outputs[UP + SCALE].shape == (1, 2)
    assert outputs[ROUTER].dtype == "F32"
    assert (outputs[NORM].dtype, outputs[OUT].dtype, outputs[UP].dtype) == (
        "BF16",
        "BF16",
        "F8_E4M3",
    )


def test_k_and_v_that_cross_are_one_task():
    infos = model_infos()
    several = [task for task in plan_of(infos).tasks if len(task.sources) > 2]
    attention = [f"{prefix}.self_attn" for prefix in FULL_LAYERS]
    assert [task.key for task in several] == [f"{a}.k_proj.weight" for a in attention]
    for task, prefix in zip(several, attention, strict=True):
        stored = [f"{prefix}.{letter}_proj.weight" for letter in "kv"]
        names = [name + end for name in stored for end in ("", SCALE)]
        assert task.sources == tuple(infos[name] for name in names)


def test_a_fused_weight_is_read_in_whole_and_gives_q_k_and_v():
    plan = plan_of(model_infos(fused=True))
    fused = [task for task in plan.tasks if param_specs.FUSED in task.key]
    assert len(fused) == len(SMALL.layers) * SMALL.num_key_value_heads
    assert {Q, K, V} < {output.name for output in plan.outputs}
    assert not any(param_specs.FUSED in output.name for output in plan.outputs)


# Refused


def put(**change) -> Callable[[TensorInfo], TensorInfo]:
    return lambda info: info._replace(**change)


REFUSED = {
    "misshapen": (UP, put(shape=(136, 40)), r"is \(136, 40\), the config asks for \(40, 136\)"),
    "flat": (NORM, put(shape=(1, 136)), r"is \(1, 136\), the config asks for \(136,\)"),
    "double precision": (OUT, put(dtype="F64"), "dtype is F64, expected one of F32, BF16, F8_E4M3"),
    "4 bits": (UP, put(dtype="U8"), "dtype is U8, expected F8_E4M3"),
    "FP8 without scales": (OUT, put(dtype="F8_E4M3"), "is F8_E4M3 and has no scales or other"),
    "scales without FP8": (UP, put(dtype="BF16"), "its weight is bfloat16, expected uint8, as fp8"),
    "scales of bytes": (
        UP + SCALE,
        put(dtype="U8"),
        "its weight_scale_inv is uint8, expected float32",
    ),
    "scales in float64": (
        UP + SCALE,
        put(dtype="F64"),
        "its weight_scale_inv is F64, expected float32",
    ),
    "another grid": (
        UP + SCALE,
        put(shape=(2, 2)),
        r"\(40, 136\) has scales \(2, 2\)",
    ),
    "another grid of q": (Q + SCALE, put(shape=(13, 2)), r"has scales \(13, 2\)"),
    "another map": (K + SCALE, put(shape=(7, 2)), r"have scales \(7, 2\) and \(4, 2\)"),
    "k without v": (V + SCALE, put(shape=(3, 2)), r"have scales \(8, 2\) and \(3, 2\)"),
}


@pytest.mark.parametrize(("name", "change", "fault"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_by_file_and_tensor(name, change, fault):
    infos = model_infos()
    infos[name] = change(infos[name])
    tensor = (K if name.startswith(V) else name).removesuffix(SCALE)
    with pytest.raises(ValueError, match=rf"{tensor}\.safetensors: {tensor}.* {fault}"):
        plan_of(infos)


@pytest.mark.parametrize("name", [ROUTER, NORM, EMBEDDING])
def test_only_matrices_of_matmuls_may_be_fp8(name):
    infos = model_infos()
    infos[name] = infos[name]._replace(dtype="F8_E4M3")
    infos[name + SCALE] = TensorInfo("s", "F32", (1, 2), 0, 8)
    with pytest.raises(ValueError, match=rf"{name}\.safetensors: {name} is fp8, which only"):
        plan_of(infos)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({QKV: put(shape=(2815, 136))}, r" is \(2815, 136\), the config asks for \(2816, 136\)"),
        (
            {QKV + SCALE: put(shape=(22, 2))},
            r": \(2816, 136\) with scales \(22, 2\), expect",
        ),
        ({QKV: put(dtype="F8_E4M3"), QKV + SCALE: None}, " is F8_E4M3 and has no scales"),
    ],
)
def test_a_fused_weight_that_does_not_fit_is_refused_by_file_and_tensor(change, fault):
    infos = model_infos(fused=True)
    for name, changed in change.items():
        info = infos.pop(name)
        if changed:
            infos[name] = changed(info)
    with pytest.raises(ValueError, match=rf"{QKV}\.safetensors: {QKV}{fault}"):
        plan_of(infos)


def test_k_may_be_fp8_where_v_is_not():
    infos = model_infos()
    del infos[V + SCALE]
    infos[V] = infos[V]._replace(dtype="BF16")
    infos[K + SCALE] = infos[K + SCALE]._replace(shape=(6, 2))
    outputs = {output.name: output.dtype for output in plan_of(infos).outputs}
    assert (outputs[K], outputs[V]) == ("F8_E4M3", "BF16")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [EMBEDDING, NORM, ROUTER])
@pytest.mark.parametrize("dtype", ["fp8", "float32"])
def test_a_tensor_that_is_not_finite_is_refused_by_file_and_name(bad, name, dtype):
    """Every tensor is looked at, whatever its dtype: the model would say so at its first step."""
    tensors, _ = model_tensors(SMALL, fused=False)
    last = tuple(length - 1 for length in tensors[name].shape)
    tensors[name][last] = bad
    disk = Disk()
    infos = {n: disk.add(a, NAME_OF[a.dtype]) for n, a in tensors.items()}
    encoding = Encoding(dtype, "cpu")
    plan = plan_of(infos, encoding)
    with pytest.raises(ValueError, match=f"{infos[name].file}: {name} must be finite, got NaN"):
        made(disk, plan, encoding)
