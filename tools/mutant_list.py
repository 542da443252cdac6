"""The deliberate faults: each is a mistake that some implementation of this model has made."""

from typing import NamedTuple

__all__ = ["MUTANTS", "Mutant"]

KERNELS, TESTS = "mimo_v2_flash/kernels", "tests/kernels"


class Mutant(NamedTuple):
    """A fault: in `file`, `old` (which stands there once) becomes `new`; `tests` must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _kernel(name: str, module: str, old: str, new: str, *tests: str) -> Mutant:
    """Return a fault of a kernel; its own tests must notice if no others are named."""
    paths = tuple(f"{TESTS}/test_{test}.py" for test in tests or (module,))
    return Mutant(name, f"{KERNELS}/{module}.py", old, new, paths)


MUTANTS = (
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
        "np.mean(np.square(wide_BTD)",
        "np.mean(np.abs(wide_BTD)",
    ),
    _kernel(
        "full rotation",
        "rope_partial",
        "R, Q = cos_LR.shape[-1], x_BTHQ.shape[-1]",
        "R = Q = x_BTHQ.shape[-1]; R = R // 2; cos_LR = np.resize(cos_LR, (len(cos_LR), R));"
        " sin_LR = np.resize(sin_LR, (len(sin_LR), R))",
    ),
    _kernel(
        "neighbours rotated instead of halves",
        "rope_partial",
        "    low_BTHR = x_BTHQ[..., :R].astype(np.float32)\n"
        "    high_BTHR = x_BTHQ[..., R : 2 * R].astype(np.float32)",
        "    low_BTHR = x_BTHQ[..., : 2 * R : 2].astype(np.float32)\n"
        "    high_BTHR = x_BTHQ[..., 1 : 2 * R : 2].astype(np.float32)",
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
        "low_BTHR * cos_BT1R - high_BTHR",
        "low_BTHR * cos_BT1R + high_BTHR",
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
        "np.transpose(run.k_BSKQ, (0, 2, 1, 3))",
        "np.roll(np.transpose(run.k_BSKQ, (0, 2, 1, 3)), 1, axis=1)",
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
        "padding is remembered",
        "kv_cache",
        "np.where(row_N == trash, -1, ",
        "np.where(row_N > trash, -1, ",
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
        "ops.top_k(score_NE + bias_E",
        "ops.top_k(-score_NE - bias_E",
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
        "gate_NF = ops.matmul(x_ND, w_gate_FD)",
        "w_gate_FD, w_up_FD = w_up_FD, w_gate_FD; gate_NF = ops.matmul(x_ND, w_gate_FD)",
    ),
    _kernel(
        "a token sent once per expert",
        "moe_dispatch",
        "earlier_NP = np.maximum(earlier_NP, mine_NP)",
        "earlier_NP = earlier_NP",
    ),
    _kernel(
        "overflow not counted",
        "moe_dispatch",
        "(seat_NP >= slots)",
        "(seat_NP > slots)",
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
    _kernel(
        "FP8 scale grid transposed",
        "block_scale",
        "    scale_OX = np.repeat(scale_YX, block_height, axis=-2)[..., :outputs, :]",
        "    scale_YX = np.resize(np.swapaxes(scale_YX, -1, -2), scale_YX.shape)\n"
        "    scale_OX = np.repeat(scale_YX, block_height, axis=-2)[..., :outputs, :]",
    ),
    _kernel(
        "FP8 scales of the next block row",
        "block_scale",
        "w.scale[..., row : row + 1, :]",
        "np.roll(w.scale, -1, axis=-2)[..., row : row + 1, :]",
    ),
    _kernel(
        "matmul accumulates in bfloat16",
        "ops",
        "    x = x.astype(np.float32, copy=False)\n",
        "    x = x.astype(np.float32, copy=False)\n"
        "    if getattr(w, 'dtype', None) == 'bfloat16': return np.matmul(x.astype(w.dtype),"
        " np.swapaxes(w, -1, -2)).astype(w.dtype).astype(np.float32)\n",
    ),
    Mutant(
        "no value scale",
        "mimo_v2_flash/layers/attention.py",
        "v_BTKC * np.float32(self.spec.value_scale).astype(x_BTD.dtype)",
        "v_BTKC",
        ("tests/layers/test_attention.py",),
    ),
    Mutant(
        "one theta for both kinds",
        "mimo_v2_flash/layers/stack.py",
        "key = (spec.rotary_dim, spec.rope_theta)",
        "key = (spec.rotary_dim, 0.0)",
        ("tests/test_features.py",),
    ),
    Mutant(
        "an expert's routing weight ignored",
        "mimo_v2_flash/layers/grouped_experts.py",
        "weight_J[pair_J, None] * moe_expert",
        "moe_expert",
        ("tests/layers/test_grouped_experts.py",),
    ),
    Mutant(
        "the ring keeps a long step's first tokens",
        "mimo_v2_flash/kv_cache.py",
        "(position_BT > last_B1 - slots)",
        "(position_BT < slots)",
        ("tests/test_kv_cache.py",),
    ),
    Mutant(
        "all of K scaled by its first row",
        "mimo_v2_flash/weights/fp8.py",
        "k_grid = run[:, :end_of_k]",
        "k_grid = np.repeat(run[:, :1], end_of_k, axis=1)",
        ("tests/weights/test_fp8.py",),
    ),
    Mutant(
        "V scaled by its own rows alone",
        "mimo_v2_flash/weights/fp8.py",
        "v_grid = run[:, end_of_k:end_of_v]",
        "v_grid = np.repeat(run[:, -1:], end_of_v - end_of_k, axis=1)",
        ("tests/weights/test_fp8.py",),
    ),
    Mutant(
        "halved codes with their old scales",
        "mimo_v2_flash/weights/encoding.py",
        "scale_YX * np.float32(2)",
        "scale_YX",
        ("tests/weights/test_encoding.py",),
    ),
    Mutant(
        "routers stored in bfloat16",
        "mimo_v2_flash/weights/conversion_tasks.py",
        "is_matrix = len(place.shape) == 2 and param_specs.ROUTER not in name",
        "is_matrix = len(place.shape) == 2",
        ("tests/weights/test_conversion_tasks.py", "tests/test_hub_layout.py"),
    ),
    _kernel(
        "FP8 subnormals lost",
        "compiled_loops",
        "KEEP = np.int32(-0x78100000)",
        "KEEP = np.int32(-0x78800000)",
        "compiled_loops",
        "compiled_matmul",
    ),
    _kernel(
        "FP8 subnormals lost in vectors",
        "compiled_words",
        "0x87F00000",
        "0x87800000",
        "compiled_words",
        "compiled_matmul",
    ),
    _kernel(
        "codes of a word in another order",
        "compiled_words",
        "(even[0], odd[0], even[1], odd[1])",
        "(even[0], even[1], odd[0], odd[1])",
        "compiled_tile",
        "compiled_matmul",
    ),
    _kernel(
        "NaN codes seen in three of four rows",
        "compiled_tile",
        "for address in self.w:\n            code",
        "for address in self.w[1:]:\n            code",
        "compiled_tile",
        "compiled_matmul",
    ),
    _kernel(
        "the last rows of a task left out",
        "compiled_matmul",
        "min((index + 1) * step, outputs))",
        "min((index + 1) * step, outputs) - 1)",
        "compiled_matmul",
    ),
    Mutant(
        "sinks of another rank's heads",
        "mimo_v2_flash/weights/shard_weights.py",
        "        Cut(0, queries),\n    )",
        "        Cut(0, range(len(queries))),\n    )",
        ("tests/weights/test_shard_weights.py",),
    ),
    Mutant(
        "a KV head of another rank",
        "mimo_v2_flash/parallel_config.py",
        "first = count * self.tensor_rank // self.tensor_parallel",
        "first = self.tensor_rank % count",
        ("tests/test_parallel_config.py",),
    ),
    Mutant(
        "blocks of a share as high as the whole's",
        "mimo_v2_flash/weights/shard_weights.py",
        "gcd(height, rows.start, len(rows))",
        "height",
        ("tests/weights/test_shard_weights.py",),
    ),
    Mutant(
        "every rank that shares heads routes the same tokens",
        "mimo_v2_flash/layers/feed_forward.py",
        "place_n = rank_1 * np.int32(own)",
        "place_n = rank_1 * np.int32(0)",
        ("tests/test_equality_of_ranks.py",),
    ),
    Mutant(
        "answers of one rank alone kept",
        "mimo_v2_flash/layers/eager_dispatchers.py",
        "y_ND[of_rank] += part",
        "y_ND[of_rank] = part",
        ("tests/layers/test_eager_dispatchers.py",),
    ),
    Mutant(
        "a rank without tokens leaves the exchange",
        "mimo_v2_flash/layers/decoder.py",
        "        y_ND, overflow_1 = self.feed_forward(",
        "        if not B * T:\n            return np.zeros(1), x_BTD\n"
        "        y_ND, overflow_1 = self.feed_forward(",
        ("tests/test_equality_of_ranks.py",),
    ),
    _kernel(
        "tokens without a seat are not counted",
        "moe_block",
        "np.maximum(token_E - np.float32(self.seats), np.float32(0))",
        "np.zeros_like(token_E)",
    ),
    _kernel(
        "messages without a slot are not counted",
        "moe_block",
        "standing_1 + group.all_reduce(parcel.overflow_1)",
        "standing_1",
    ),
    _kernel(
        "every choice weighs at every seat",
        "moe_expert",
        "chosen_MA = (parcel.expert_PMA[expert] == expert)",
        "chosen_MA = (parcel.expert_PMA[expert] >= 0)",
    ),
    Mutant(
        "what overflowed is not answered again",
        "mimo_v2_flash/layers/passage.py",
        "if not np.any(np.asarray(overflow_1)):",
        "if True:",
        ("tests/layers/test_passage.py",),
    ),
    Mutant(
        "attention runs again with the experts",
        "mimo_v2_flash/layers/passage.py",
        "            given = x_BTD, step.position_BT, rank, *network\n",
        "            x_BTD = self._attend(x_BTD, step, cache, norm_D, attention, filled=filled)\n"
        "            given = x_BTD, step.position_BT, rank, *network\n",
        ("tests/layers/test_passage.py",),
    ),
    Mutant(
        "every rank counts its words from 0",
        "mimo_v2_flash/layers/head.py",
        "greedy(logits_NV) + first_word_1",
        "greedy(logits_NV)",
        ("tests/layers/test_head.py",),
    ),
    Mutant(
        "chunks after the last answer are not computed",
        "mimo_v2_flash/layers/network.py",
        "                logits_BnV = part_BnV\n                continue",
        "                return part_BnV",
        ("tests/layers/test_network.py",),
    ),
)
