"""A recipe takes what a config declares, byte by byte, from either layout; misfits are refused."""

from collections.abc import Callable

import numpy as np
import pytest

from mimo_v2_flash.weights import param_specs
from mimo_v2_flash.weights.conversion_plan import declared_weights, needed, plan_conversion
from mimo_v2_flash.weights.conversion_tasks import ConversionPlan
from mimo_v2_flash.weights.encoding import STORED, TARGETS, Encoding
from mimo_v2_flash.weights.safetensors_file import DTYPES
from mimo_v2_flash.weights.source import TensorInfo
from tests.support.disk import Disk, made
from tests.support.quantised import FULL_LAYERS, SMALL, model_tensors

EXPERTS = range(5)
NAME_OF = {dtype: name for name, dtype in DTYPES.items()}
Q, K, V, OUT = (f"model.layers.2.self_attn.{letter}_proj.weight" for letter in "qkvo")
QKV = f"model.layers.2.{param_specs.FUSED}"
UP = "model.layers.1.mlp.experts.3.up_proj.weight"
ROUTER = "model.layers.1.mlp.gate.weight"
NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"

either_layout = pytest.mark.parametrize("fused", [False, True], ids=["split", "fused"])
Places = dict[str, TensorInfo]


@pytest.fixture(scope="module", params=[False, True], ids=["split", "fused"])
def checkpoint(request) -> tuple[Disk, Places, dict[str, np.ndarray]]:
    tensors, truth = model_tensors(SMALL, fused=request.param)
    disk = Disk()
    return disk, {n: disk.add(a, NAME_OF[a.dtype]) for n, a in tensors.items()}, truth


def infos(*, fused: bool = False) -> Places:
    """Return where tensors would be that nobody reads."""
    tensors, _ = model_tensors(SMALL, fused=fused)
    return {
        name: TensorInfo(f"{name}.safetensors", NAME_OF[a.dtype], a.shape, 0, a.nbytes)
        for name, a in tensors.items()
    }


def recipe_of(found: Places, encoding: Encoding | None = None) -> ConversionPlan:
    declared = declared_weights(SMALL, EXPERTS, list(found))
    return plan_conversion(SMALL, declared, found, encoding or Encoding("fp8", "cpu"))


# What is there


@either_layout
def test_all_that_a_checkpoint_holds_is_needed(fused):
    found = list(model_tensors(SMALL, fused=fused)[0])
    assert sorted(needed(declared_weights(SMALL, EXPERTS, found), found)) == sorted(found)


def test_what_is_not_declared_is_not_read():
    found = list(model_tensors(SMALL)[0])
    others = ["model.mtp.layers.0.eh_proj.weight", "visual.blocks.0.qkv.weight", "extra_scale_inv"]
    others += [
        f"model.mtp.layers.0.{param_specs.FUSED}"
    ]  # which says nothing of the model's own layers
    few = [name for name in found if ".experts." not in name or ".experts.3." in name]
    declared = declared_weights(SMALL, [3], found + others)
    assert sorted(needed(declared, found + others)) == sorted(few)


def test_what_is_missing_is_named_and_counted():
    found = list(model_tensors(SMALL)[0])
    declared = declared_weights(SMALL, EXPERTS, found)
    with pytest.raises(ValueError, match=rf"^{UP} is missing$"):
        needed(declared, [name for name in found if name != UP])
    with pytest.raises(ValueError, match=r"^model.*\.gate_proj\.weight is missing, and 29 more$"):
        needed(declared, [name for name in found if ".experts." not in name])


def test_scales_are_needed_where_there_are_any():
    plain = [weight.name for weight in declared_weights(SMALL, EXPERTS, [])]
    assert needed(declared_weights(SMALL, EXPERTS, plain), plain) == plain


# What becomes of it


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("target", TARGETS)
def test_a_model_of_either_layout_becomes_the_split_one(checkpoint, dtype, target):
    disk, found, truth = checkpoint
    encoding, halved = Encoding(dtype, target), (dtype, target) == ("fp8", "trainium2")
    result = made(disk, recipe_of(found, encoding), encoding)
    weights = {name for name in result.arrays if not name.endswith(param_specs.SCALE)}
    assert weights == truth.keys()
    for name, value in truth.items():
        is_matrix = value.ndim == 2 and name not in {ROUTER, ROUTER.replace("1", "2")}
        expected = value.astype(DTYPES[STORED[dtype]]) if is_matrix and STORED[dtype] else value
        scale = result.arrays.get(name + param_specs.SCALE, np.zeros(1)) if halved else np.zeros(1)
        error = np.abs(result.value(name) - expected.astype(np.float32))
        assert error.max() <= 2.0**-10 * scale.max() * (1 + 1e-5), name
    assert (encoding.rounded > 0) == halved


def test_scales_are_on_64_rows_where_they_crossed(checkpoint):
    _, found, _ = checkpoint
    outputs = {output.name: output for output in recipe_of(found).outputs}
    for prefix in FULL_LAYERS:
        k, v = (outputs[f"{prefix}.self_attn.{x}_proj.weight_scale_inv"] for x in "kv")
        assert ((k.dtype, k.shape), (v.dtype, v.shape)) == (("F32", (12, 2)), ("F32", (8, 2)))
    assert outputs[UP + param_specs.SCALE].shape == (1, 2)
    assert outputs[ROUTER].dtype == "F32"
    assert (outputs[NORM].dtype, outputs[OUT].dtype, outputs[UP].dtype) == (
        "BF16",
        "BF16",
        "F8_E4M3",
    )


def test_k_and_v_that_cross_are_one_piece():
    found = infos()
    several = [task for task in recipe_of(found).tasks if len(task.sources) > 2]
    attention = [f"{prefix}.self_attn" for prefix in FULL_LAYERS]
    assert [task.key for task in several] == [f"{a}.k_proj.weight" for a in attention]
    for task, prefix in zip(several, attention, strict=True):
        stored = [f"{prefix}.{letter}_proj.weight" for letter in "kv"]
        assert task.sources == tuple(
            found[n + end] for n in stored for end in ("", param_specs.SCALE)
        )


def test_a_fused_weight_is_read_in_whole_and_gives_q_k_and_v():
    plan = recipe_of(infos(fused=True))
    own = [task for task in plan.tasks if param_specs.FUSED in task.key]
    assert len(own) == len(SMALL.layers) * SMALL.num_key_value_heads
    assert {Q, K, V} < {output.name for output in plan.outputs}
    assert not any(param_specs.FUSED in output.name for output in plan.outputs)


# Refused


def put(**change) -> Callable[[TensorInfo], TensorInfo]:
    return lambda info: info._replace(**change)


REFUSED = {
    "misshapen": (UP, put(shape=(136, 40)), r"is \(136, 40\), the config asks for \(40, 136\)"),
    "flat": (NORM, put(shape=(1, 136)), r"is \(1, 136\), the config asks for \(136,\)"),
    "half precision": (OUT, put(dtype="F16"), "is F16, expected one of F32, BF16, F8_E4M3"),
    "4 bits": (UP, put(dtype="U8"), "is U8, expected one of"),
    "FP8 without scales": (OUT, put(dtype="F8_E4M3"), "is uint8 and has no scales: FP8"),
    "scales without FP8": (UP, put(dtype="BF16"), "is bfloat16 and has scales: FP8"),
    "scales of bytes": (UP + param_specs.SCALE, put(dtype="U8"), "is U8, expected float32"),
    "scales in bfloat16": (
        UP + param_specs.SCALE,
        put(dtype="BF16"),
        "is bfloat16, expected float32",
    ),
    "another grid": (
        UP + param_specs.SCALE,
        put(shape=(2, 2)),
        r"\(40, 136\) and has scales \(2, 2\)",
    ),
    "another grid of q": (Q + param_specs.SCALE, put(shape=(13, 2)), r"and has scales \(13, 2\)"),
    "another map": (K + param_specs.SCALE, put(shape=(7, 2)), r"have scales \(7, 2\) and \(4, 2\)"),
    "k without v": (V + param_specs.SCALE, put(shape=(3, 2)), r"have scales \(8, 2\) and \(3, 2\)"),
}


@pytest.mark.parametrize(("name", "change", "fault"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_by_file_and_tensor(name, change, fault):
    found = infos()
    found[name] = change(found[name])
    tensor = (K if name.startswith(V) else name).removesuffix(param_specs.SCALE)
    with pytest.raises(ValueError, match=rf"{tensor}\.safetensors: {tensor}.* {fault}"):
        recipe_of(found)


@pytest.mark.parametrize("name", [ROUTER, NORM, EMBEDDING])
def test_only_matrices_of_matmuls_may_be_fp8(name):
    found = infos()
    found[name] = found[name]._replace(dtype="F8_E4M3")
    found[name + param_specs.SCALE] = TensorInfo("s", "F32", (1, 2), 0, 8)
    with pytest.raises(ValueError, match=rf"{name}\.safetensors: {name} is FP8, which only"):
        recipe_of(found)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({QKV: put(shape=(2815, 136))}, r" is \(2815, 136\), the config asks for \(2816, 136\)"),
        (
            {QKV + param_specs.SCALE: put(shape=(22, 2))},
            r": \(2816, 136\) with scales \(22, 2\), expect",
        ),
        ({QKV: put(dtype="BF16"), QKV + param_specs.SCALE: None}, " is bfloat16, expected FP8"),
    ],
)
def test_a_fused_weight_that_does_not_fit_is_refused_by_file_and_tensor(change, fault):
    found = infos(fused=True)
    for name, changed in change.items():
        info = found.pop(name)
        if changed:
            found[name] = changed(info)
    with pytest.raises(ValueError, match=rf"{QKV}\.safetensors: {QKV}{fault}"):
        recipe_of(found)


def test_k_may_be_fp8_where_v_is_not():
    found = infos()
    del found[V + param_specs.SCALE]
    found[V] = found[V]._replace(dtype="BF16")
    found[K + param_specs.SCALE] = found[K + param_specs.SCALE]._replace(shape=(6, 2))
    outputs = {output.name: output.dtype for output in recipe_of(found).outputs}
    assert (outputs[K], outputs[V]) == ("F8_E4M3", "BF16")
