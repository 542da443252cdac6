"""Mutants of the compiled calls of a decode step: attention, and the mixture of experts."""

from functools import partial

from tools.kernel_mutants import Mutant, mutant_in

__all__ = ["DECODE_MUTANTS"]

_loops = partial(mutant_in, "cpu")
_layer = partial(mutant_in, "layers")


def _experts(
    name: str, module: str, old: str, new: str, test: str = "layers/eager_experts"
) -> Mutant:
    """Return a mutant of a compiled loop, which a layer's test must kill."""
    folder, stem = test.split("/")
    return Mutant(
        name, f"mimo_v2_flash/cpu/{module}.py", old, new, (f"tests/{folder}/test_{stem}.py",)
    )


DECODE_MUTANTS = (
    _loops(
        "compiled decode forgets the sink",
        "visible_keys",
        "max(sink_H[head], NO_SINK), ONE",
        "NO_SINK, ONE",
        "decode_attention",
    ),
    _loops(
        "compiled decode takes a window for the keys before a token",
        "visible_keys",
        "position_J, position - window)",
        "position_J, position - window - 1)",
        "decode_attention",
    ),
    _loops(
        "compiled decode sees rejected drafts",
        "visible_keys",
        "0 <= position < start and start - position < window",
        "0 <= position and start - position < window",
        "decode_attention",
    ),
    _loops(
        "compiled decode sees empty slots",
        "visible_keys",
        "0 <= position < start and start - position < window",
        "position < start and start - position < window",
        "decode_attention",
    ),
    _loops(
        "compiled decode gives the queries of a KV head in turn to all",
        "visible_keys",
        "scratch.q_GQ[g, i] = q_NHQ[token, head, i]",
        "scratch.q_GQ[g, i] = q_NHQ[token, g % heads, i]",
        "decode_attention",
    ),
    _loops(
        "compiled decode reads another KV head of the cache",
        "visible_keys",
        "copy_row(v_ZKI, row + slot_J[j], head,",
        "copy_row(v_ZKI, row + slot_J[j], 0,",
        "decode_attention",
    ),
    _loops(
        "compiled decode reads the first row's slots",
        "decode_attention",
        "prior_v_ZKI), b * slots, slot_J",
        "prior_v_ZKI), 0 * slots, slot_J",
    ),
    _loops(
        "compiled decode takes a view's slots for a sequence's",
        "visible_keys",
        "return prior_BSK.strides[0] // prior_BSK.strides[1] if prior_BSK.size else 0",
        "return prior_BSK.shape[1]",
        "decode_attention",
    ),
    _loops(
        "compiled decode misses a token's own key",
        "visible_keys",
        "        if position_T[t] >= 0:\n",
        "        if position_T[t] >= 0 and not keys:\n",
        "decode_attention",
    ),
    _loops(
        "compiled decode gives idle rows a key",
        "visible_keys",
        "        if position_T[t] >= 0:\n",
        "        if position_T[t] >= -1:\n",
        "decode_attention",
    ),
    _loops(
        "compiled decode keeps the slots of the sequence before",
        "decode_attention",
        "        if b != row:\n",
        "        if row < 0:\n",
    ),
    _loops(
        "a draft sees the draft after it",
        "visible_keys",
        "position_J, position)",
        "position_J, position + 1)",
        "decode_attention",
    ),
    _loops(
        "a draft does not see itself",
        "visible_keys",
        "position_J, position)",
        "position_J, position - 1)",
        "decode_attention",
    ),
    _loops(
        "drafts see the window of the token before them",
        "visible_keys",
        "position_J, position - window)",
        "position_J, np.int64(position_T[0]) - window)",
        "decode_attention",
    ),
    _loops(
        "keys that a token does not see have weights of another block",
        "decode_attention",
        "            score_GS[g, max(0, end) :] = ZERO\n",
        "",
    ),
    _loops(
        "blocks of a step's keys depend on its other tokens",
        "visible_keys",
        " and position_J[end] // size == block:",
        ":",
        "decode_attention",
    ),
    _loops(
        "compiled decode does not bring sums to the new peak",
        "decode_attention",
        "        y_GC[g, c] *= factor\n",
        "        y_GC[g, c] *= np.float32(1)\n",
    ),
    _loops(
        "compiled decode begins with the sums of another row",
        "decode_attention",
        "    scratch.y_GC[:] = ZERO\n",
        "    scratch.y_GC[:] *= ZERO\n",
    ),
    _loops(
        "compiled decode makes NaN a number",
        "exponential",
        "is_low = x < LOWEST",
        "is_low = not x >= LOWEST",
    ),
    _loops(
        "tasks of equally many pairs",
        "decode_attention",
        "np.repeat(key_B.astype(np.int64) + PAIR_KEYS, heads)",
        "np.repeat(np.ones_like(key_B), heads)",
    ),
    _loops(
        "columns of a cache are read as its rows",
        "visible_keys",
        "is_whole = inner == [heads * width * size, width * size, size] and ",
        "is_whole = ",
    ),
    _loops(
        "a bfloat16 is half a float32",
        "attention_tile",
        "build.shl(build.zext(half, words), _constant(words, 16))",
        "build.zext(half, words)",
    ),
    _loops(
        "a row's last elements are not copied",
        "attention_tile",
        "((INT64(0), whole, LANES), (whole, length, 1))",
        "((INT64(0), whole, LANES),)",
    ),
    _loops(
        "the lanes of two sums are mixed",
        "tile",
        "range(0, 2 * LANES, 2), range(1, 2 * LANES, 2)",
        "range(0, LANES), range(LANES, 2 * LANES)",
    ),
    _layer(
        "eager mode rounds weights to a bfloat16 stream",
        "eager_attention",
        "    wide_BTHQ = q_BTHQ.astype(np.float32, copy=False)\n",
        "    wide_BTHQ = q_BTHQ\n",
    ),
    _layer(
        "compiled decode reads a step that the cache does not round",
        "eager_attention",
        "or len({part.dtype for part in parts}) > 1:",
        "or False:",
    ),
    _layer(
        "eager mode never decodes in a compiled call",
        "eager_attention",
        "compiled_module(name) if H % K == 0 else None",
        "compiled_module(name) if H % K == 1 else None",
    ),
    _experts(
        "the last task of a step's outputs is lost",
        "expert_step",
        "while start < D:",
        "while start < D - rows:",
    ),
    _experts(
        "an expert has the weights of another",
        "expert_step",
        "address_WP, stop = address_EWP[pairs.expert_G[g]], min(start + rows, F)",
        "address_WP, stop = address_EWP[pairs.expert_G[0]], min(start + rows, F)",
    ),
    _experts(
        "a token has its neighbour's routing weight",
        "expert_step",
        "pairs.weight_J[j + row]",
        "pairs.weight_J[j]",
    ),
    _experts(
        "an expert's ninth token takes the place of the first",
        "expert_step",
        "hidden_JF[j + row]",
        "hidden_JF[start_G[g] + row]",
    ),
    _experts(
        "experts have scales of blocks of 128 rows",
        "fp8_experts",
        "x_NI.shape[1], address_P[2]",
        "x_NI.shape[1], 128",
        "cpu/fp8_experts",
    ),
    _experts(
        "the compiled rotation turns the other way",
        "row_loops",
        "low * cos_LR[row, r] - high",
        "low * cos_LR[row, r] + high",
        "layers/eager_kernels",
    ),
    _experts(
        "the compiled router weighs a score that is not finite",
        "row_loops",
        "weight if is_finite else NAN",
        "weight",
        "layers/eager_kernels",
    ),
    _layer(
        "eager mode never computes experts in a compiled call",
        "eager_experts",
        "if 0 < len(x_ND) <= MAX_TOKENS else None",
        "if 0 > len(x_ND) else None",
    ),
    _loops(
        "a prompt's token sees the token after it",
        "visible_keys",
        "position_J, position)",
        "position_J, position + 1)",
        "prefill_attention",
    ),
    _loops(
        "a prompt's window is one key longer",
        "visible_keys",
        "position_J, position - window)",
        "position_J, position - window - 1)",
        "prefill_attention",
    ),
    _loops(
        "a prompt's keys have rows by the chunk that they came in",
        "prefill_attention",
        "base = first - position_J[first] % KEY_BLOCK",
        "base = first",
    ),
    _loops(
        "a prompt's sums are not brought to the new peak",
        "prefill_attention",
        "    if factor != ONE:\n",
        "    if factor > ONE:\n",
    ),
    _loops(
        "a prompt's invisible keys have weights",
        "prefill_attention",
        "weight if start <= p * PANEL + s < end else ZERO",
        "weight",
    ),
    _loops(
        "values of a prompt's last panel are taken whole",
        "prefill_attention",
        "min(PANEL, keys - p * PANEL), (c",
        "PANEL - 1, (c",
    ),
    _loops(
        "a prompt's second half begins at the queries of its first",
        "prefill_attention",
        "prior_position_BS.shape[1], b * T + start",
        "prior_position_BS.shape[1], b * T",
    ),
    _loops(
        "a code has the scale of the KV head beside it",
        "attention_tile",
        "build.gep(row, [length])",
        "build.gep(row, [build.add(length, size)])",
    ),
    _loops(
        "codes are read without their scales",
        "attention_tile",
        "length, _widened(build, _load(build, build.gep(row, [length]), INT16))",
        "length, FLOAT(1.0)",
    ),
    _loops(
        "subnormal codes have a leading one",
        "attention_tile",
        'fcmp_ordered("<", t, doubled), t, doubled)',
        'fcmp_ordered("<", t, doubled), t, t)',
    ),
    _loops(
        "a row of codes has the scale of all rows",
        "kv_codes",
        "np.max(np.abs(x), axis=-1, keepdims=True)",
        "np.broadcast_to(np.max(np.abs(x)), (*x.shape[:-1], 1))",
    ),
    Mutant(
        "a slot of a ring keeps the scale of the token before",
        "mimo_v2_flash/kernels/kv_cache.py",
        "ops.put_rows(v_ZKC, slot_mapping_N, v_NKC.astype(v_ZKC.dtype))",
        "ops.put_rows(v_ZKC[..., :-2], slot_mapping_N, v_NKC[..., :-2].astype(v_ZKC.dtype))",
        ("tests/layers/test_attention.py",),
    ),
    Mutant(
        "codes are copied as integers of 32 bits",
        "mimo_v2_flash/kv_transfer.py",
        "if x_N.ndim == 1 else x_N",
        'if x_N.dtype.kind == "i" else x_N',
        ("tests/test_kv_transfer.py",),
    ),
    Mutant(
        "hidden states that MTP heads read are codes",
        "mimo_v2_flash/kv_bytes.py",
        "dtype if dtype not in CODE_DTYPES or spec.num_heads else HIDDEN",
        "dtype",
        ("tests/test_mtp_runner.py",),
    ),
)
