"""Mutants of the kernels: each is a mistake that an implementation of the model has made."""

from functools import partial
from typing import NamedTuple

__all__ = ["KERNEL_MUTANTS", "Mutant", "mutant_in"]


class Mutant(NamedTuple):
    """A mutant: `new` replaces the only `old` in `file`, and one of `tests` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def mutant_in(folder: str, name: str, module: str, old: str, new: str, *tests: str) -> Mutant:
    """Return a mutant of a module of `folder`; its tests must fail unless others are named."""
    return _module(name, f"{folder}/{module}", old, new, *(f"{folder}/{test}" for test in tests))


def _module(name: str, module: str, old: str, new: str, *tests: str) -> Mutant:
    """Return a mutant of `folder/module`; its own tests must fail unless others are named."""
    pairs = (test.rsplit("/", 1) for test in tests or (module,))
    paths = tuple(f"tests/{folder}/test_{stem}.py" for folder, stem in pairs)
    return Mutant(name, f"mimo_v2_flash/{module}.py", old, new, paths)


_kernel = partial(mutant_in, "kernels")

KERNEL_MUTANTS = (
    _kernel(
        "no sink",
        "softmax",
        "keepdims=True) + np.exp(sink_1KG11 - peak_BKGT1)",
        "keepdims=True)",
    ),
    _kernel(
        "sink scaled as scores are",
        "softmax",
        "np.reshape(sink_H, (1",
        "np.reshape(sink_H * np.float32(0.07), (1",
    ),
    _kernel(
        "epsilon 1e-6",
        "rmsnorm",
        "np.float32(epsilon)",
        "np.float32(1e-6)",
    ),
    _kernel(
        "mean of magnitudes instead of squares",
        "rmsnorm",
        "np.mean(np.square(wide_ND)",
        "np.mean(np.abs(wide_ND)",
    ),
    _kernel(
        "full rotation",
        "rope_partial",
        "R, Q = cos_LR.shape[-1], x_NHQ.shape[-1]",
        "R = Q = x_NHQ.shape[-1]; R = R // 2; cos_LR = np.resize(cos_LR, (len(cos_LR), R));"
        " sin_LR = np.resize(sin_LR, (len(sin_LR), R))",
    ),
    _kernel(
        "neighbours rotated instead of halves",
        "rope_partial",
        "    low_NHR = x_NHQ[..., :R].astype(np.float32)\n"
        "    high_NHR = x_NHQ[..., R : 2 * R].astype(np.float32)",
        "    low_NHR = x_NHQ[..., : 2 * R : 2].astype(np.float32)\n"
        "    high_NHR = x_NHQ[..., 1 : 2 * R : 2].astype(np.float32)",
    ),
    _kernel(
        "wrong theta",
        "rope_partial",
        "frequency_R = theta **",
        "frequency_R = 10_000.0 **",
    ),
    _kernel(
        "angles turn the other way",
        "rope_partial",
        "low_NHR * cos_N1R - high_NHR",
        "low_NHR * cos_N1R + high_NHR",
    ),
    _kernel(
        "window one short",
        "attention",
        "(age_BTS < window)",
        "(age_BTS < window - 1)",
        "attention_swa",
    ),
    _kernel(
        "no causality",
        "attention",
        "(key_position_B1S >= 0) & (age_BTS >= 0)",
        "(key_position_B1S >= 0)",
        "attention_full",
        "attention_visibility",
    ),
    _kernel(
        "first tokens seen for ever",
        "attention",
        "& (age_BTS < window)",
        "& ((age_BTS < window) | (key_position_B1S < 4))",
        "attention_swa",
        "attention_visibility",
    ),
    _kernel(
        "KV heads off by one",
        "attention",
        "np.transpose(segment.k_BSKQ, (0, 2, 1, 3))",
        "np.roll(np.transpose(segment.k_BSKQ, (0, 2, 1, 3)), 1, axis=1)",
        "attention_full",
    ),
    _kernel(
        "rejected drafts are seen",
        "attention",
        "prior = _before_step(prior, active.position_BS)",
        "prior = prior",
        "attention_full",
        "attention_visibility",
    ),
    _kernel(
        "scores not scaled",
        "attention",
        "np.float32(Q**-0.5)",
        "np.float32(1)",
        "attention_full",
    ),
    _kernel(
        "the prior's last block forgotten",
        "attention",
        "start < window - 1",
        "start < 1",
        "attention_swa",
    ),
    _kernel(
        "probabilities rounded as the cache is",
        "attention",
        "ops.matmul(weight[..., start:end],",
        "ops.matmul(weight[..., start:end].astype(segment.v_BSKC.dtype),",
        "attention",
    ),
    _kernel(
        "a constant as large as a step",
        "moe_dispatch",
        "ops.arange(x_ND, N), 1), (N, A))",
        "ops.constant(x_ND, np.repeat(np.arange(N, dtype=np.int32), A)), 1), (N * A, 1))",
    ),
    _kernel(
        "padding is remembered",
        "kv_cache",
        "np.where(slot_mapping_N == position_Z.shape[0] - 1, ",
        "np.where(slot_mapping_N >= position_Z.shape[0], ",
    ),
    _kernel(
        "bias in the weights",
        "moe_router",
        "np.take_along_axis(score_NE, expert_NA",
        "np.take_along_axis(score_NE + bias_E, expert_NA",
    ),
    _kernel(
        "no selection bias",
        "moe_router",
        "score_NE + bias_E.astype(np.float32)",
        "score_NE",
    ),
    _kernel(
        "weights not normalised",
        "moe_router",
        "score_NA / total_N1 *",
        "score_NA *",
    ),
    _kernel(
        "worst experts instead of best",
        "moe_router",
        "np.where(is_finite_NE, biased_NE",
        "np.where(is_finite_NE, -biased_NE",
    ),
    _kernel(
        "router in bfloat16",
        "moe_router",
        "x_ND, w_router_ED = x_ND.astype(np.float32), w_router_ED.astype(np.float32)",
        "import ml_dtypes; x_ND, w_router_ED = ("
        "t.astype(ml_dtypes.bfloat16).astype(np.float32) for t in (x_ND, w_router_ED))",
    ),
    _kernel(
        "routing weight ignored",
        "moe_expert",
        "weight_N1 = np.sum(weight_NA * chosen_NA",
        "weight_N1 = np.sum(chosen_NA",
    ),
    _kernel(
        "gate and up exchanged",
        "moe_expert",
        "ops.swiglu(ops.matmul(x_ND, w_gate_FD), ops.matmul(x_ND, w_up_FD))",
        "ops.swiglu(ops.matmul(x_ND, w_up_FD), ops.matmul(x_ND, w_gate_FD))",
    ),
    _kernel(
        "a token sent once per expert",
        "moe_dispatch",
        "earlier_NP = np.maximum(earlier_NP, on_rank_NP)",
        "earlier_NP = earlier_NP",
    ),
    _kernel(
        "overflow not counted",
        "moe_dispatch",
        "(index_NP >= send_capacity)",
        "(index_NP > send_capacity)",
    ),
    _kernel(
        "padding is routed",
        "moe_block",
        "np.expand_dims(position_N, 1) >= 0",
        "np.expand_dims(position_N, 1) >= -1",
    ),
    _kernel(
        "another rank's experts",
        "moe_block",
        "expert_NA - rank_1 *",
        "expert_NA - (rank_1 ^ 1) *",
    ),
    _kernel(
        "last tokens of a block left out",
        "dense_ffn",
        "min(start + token_block, N)",
        "min(start + token_block, N - 1)",
    ),
    _module(
        "FP8 scale grid transposed",
        "quantization/fp8",
        "    scale_OX = np.repeat(scale_YX, block_height, axis=0)[:outputs]",
        "    scale_YX = np.resize(scale_YX.T, scale_YX.shape)\n"
        "    scale_OX = np.repeat(scale_YX, block_height, axis=0)[:outputs]",
    ),
    _module(
        "FP8 scales of the next block row",
        "quantization/fp8",
        "_exact(self.scale[..., first:last, :]",
        "_exact(np.roll(self.scale, -1, axis=-2)[..., first:last, :]",
    ),
    _kernel(
        "matmul accumulates in bfloat16",
        "ops",
        "    return stored_matmul(x.astype(np.float32, copy=False), w)\n",
        "    x = x.astype(np.float32, copy=False)\n"
        "    if getattr(w, 'dtype', None) == 'bfloat16': return np.matmul(x.astype(w.dtype),"
        " np.swapaxes(w, -1, -2)).astype(w.dtype).astype(np.float32)\n"
        "    return stored_matmul(x, w)\n",
    ),
    _module(
        "FP8 subnormals lost",
        "cpu/fp8",
        "min(t, np.float32(2) * t - SMALLEST)",
        "t",
        "cpu/fp8",
        "cpu/matmul",
    ),
    _module(
        "FP8 subnormals lost in vectors",
        "cpu/fp8",
        'build.select(build.fcmp_ordered("<", t, doubled), t, doubled)',
        "t",
        "cpu/tile",
        "cpu/matmul",
    ),
    _module(
        "codes of a word in another order",
        "cpu/fp8",
        "[even[0], odd[0], even[1], odd[1]]",
        "[even[0], even[1], odd[0], odd[1]]",
        "cpu/tile",
        "cpu/matmul",
    ),
    _module(
        "NaN codes seen in three of four rows",
        "cpu/tile",
        "for code in codes:\n            max_code",
        "for code in codes[1:]:\n            max_code",
        "cpu/tile",
        "cpu/matmul",
    ),
    _module(
        "subnormal codes seen in three of four rows",
        "cpu/tile",
        "for vector in above[1:]:",
        "for vector in above[2:]:",
        "cpu/tile",
    ),
    _module(
        "the last rows of a task left out",
        "cpu/matmul",
        "min(starts[i] + step, outputs))",
        "min(starts[i] + step, outputs) - 1)",
        "cpu/matmul",
    ),
    _module(
        "the scales of a stack's first weight for all",
        "quantization/quantized_tensor",
        "lambda _, array: array[index]",
        "lambda field, array: array[0 if field == 'scale' else index]",
    ),
    _module(
        "a format found by its tensors' names alone",
        "quantization/registry",
        "        if all(tensor.accepts(arrays[tensor.field].dtype) for tensor in form.tensors):\n",
        "        if arrays:\n",
    ),
    _kernel(
        "tokens without a seat are not counted",
        "moe_block",
        "np.maximum(count_E - np.float32(self.capacity), np.float32(0))",
        "np.zeros_like(count_E)",
    ),
    _kernel(
        "messages without a slot are not counted",
        "moe_block",
        "capacity_overflow_1 + send_overflow_1",
        "capacity_overflow_1",
    ),
    _kernel(
        "every choice weighs at every seat",
        "moe_expert",
        "chosen_MA = (buffers.expert_PMA[expert] == expert)",
        "chosen_MA = (buffers.expert_PMA[expert] >= 0)",
    ),
    Mutant(
        "a router's NaN is a choice like others",
        "mimo_v2_flash/kernels/moe_router.py",
        "np.where(is_finite_N1, weight_NA, np.float32(np.nan))",
        "weight_NA",
        ("tests/kernels/test_moe_router.py",),
    ),
    Mutant(
        "zero times a bad expert",
        "mimo_v2_flash/kernels/moe_expert.py",
        "np.where(is_chosen_N1, output_ND, np.float32(0))",
        "output_ND",
        ("tests/kernels/test_moe_expert.py",),
    ),
)
