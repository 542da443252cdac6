"""All mutants: one module for each part of the package, and here those of layers and ranks."""

from tools.checkpoint_mutants import CHECKPOINT_MUTANTS
from tools.compute_mutants import COMPUTE_MUTANTS
from tools.decode_mutants import DECODE_MUTANTS
from tools.draft_mutants import DRAFT_MUTANTS
from tools.engine_mutants import ENGINE_MUTANTS
from tools.family_mutants import FAMILY_MUTANTS
from tools.format_mutants import FORMAT_MUTANTS
from tools.generation_mutants import GENERATION_MUTANTS
from tools.gguf_mutants import GGUF_MUTANTS
from tools.input_mutants import INPUT_MUTANTS
from tools.isolation_mutants import ISOLATION_MUTANTS
from tools.isq_mutants import ISQ_MUTANTS
from tools.kernel_mutants import KERNEL_MUTANTS, Mutant
from tools.machine_mutants import MACHINE_MUTANTS
from tools.memory_mutants import MEMORY_MUTANTS
from tools.panel_mutants import PANEL_MUTANTS
from tools.program_mutants import PROGRAM_MUTANTS
from tools.rank_mutants import RANK_MUTANTS
from tools.serving_mutants import SERVING_MUTANTS
from tools.store_mutants import STORE_MUTANTS
from tools.text_mutants import TEXT_MUTANTS
from tools.training_mutants import TRAINING_MUTANTS

__all__ = ["MUTANTS", "Mutant"]

MUTANTS = (
    *KERNEL_MUTANTS,
    *DECODE_MUTANTS,
    *COMPUTE_MUTANTS,
    *PANEL_MUTANTS,
    *CHECKPOINT_MUTANTS,
    *FORMAT_MUTANTS,
    *FAMILY_MUTANTS,
    *ISQ_MUTANTS,
    *GGUF_MUTANTS,
    *GENERATION_MUTANTS,
    *DRAFT_MUTANTS,
    *ENGINE_MUTANTS,
    *MEMORY_MUTANTS,
    *PROGRAM_MUTANTS,
    *SERVING_MUTANTS,
    *RANK_MUTANTS,
    *STORE_MUTANTS,
    *MACHINE_MUTANTS,
    *INPUT_MUTANTS,
    *ISOLATION_MUTANTS,
    *TEXT_MUTANTS,
    *TRAINING_MUTANTS,
    Mutant(
        "own keys and values seen before they are rounded",
        "mimo_v2_flash/layers/attention.py",
        "k_NKQ, v_NKC = encode(k_NKQ, cache.k_ZKQ.dtype), encode(v_NKC, cache.v_ZKC.dtype)",
        "pass",
        ("tests/layers/test_attention.py",),
    ),
    Mutant(
        "positions that wrap around int32",
        "mimo_v2_flash/inputs.py",
        "if np.any(outside := wrapped_BT != position_BT):",
        "if np.any(outside := position_BT > np.iinfo(np.int32).max):",
        ("tests/test_inputs.py",),
    ),
    Mutant(
        "rope tables of two threads at once",
        "mimo_v2_flash/model_runner.py",
        "        with _ROPE_LOCK:\n",
        "        if True:\n",
        ("tests/test_model_runner.py",),
    ),
    Mutant(
        "subnormal codes decoded through subnormal numbers",
        "mimo_v2_flash/cpu/fp8.py",
        "    t = masked(build, word, MAGNITUDE, BIAS)\n",
        "    return build.fmul(masked(build, word, SIGN | MAGNITUDE), splat(SUMS, 2.0**112))\n"
        "    t = masked(build, word, MAGNITUDE, BIAS)\n",
        ("tests/test_floating_point_state.py",),
    ),
    Mutant(
        "subnormal scales flushed to zero",
        "mimo_v2_flash/quantization/fp8.py",
        "if is_subnormal.any() else scale",
        "if False else scale",
        ("tests/test_floating_point_state.py",),
    ),
    Mutant(
        "scales compared as floats",
        "mimo_v2_flash/quantization/fp8.py",
        "is_zero = bits == 0",
        "is_zero = w.scale == 0",
        ("tests/test_floating_point_state.py",),
    ),
    Mutant(
        "extreme scales multiplied into x",
        "mimo_v2_flash/cpu/fp8.py",
        "if not (is_contiguous(code_OI) and are_usual.all()):",
        "if not is_contiguous(code_OI):",
        ("tests/quantization/test_matmul.py",),
    ),
    Mutant(
        "no value scale",
        "mimo_v2_flash/layers/attention.py",
        "v_NKC * np.float32(self.spec.value_scale).astype(x_ND.dtype)",
        "v_NKC",
        ("tests/layers/test_attention.py",),
    ),
    Mutant(
        "one theta for both kinds",
        "mimo_v2_flash/model_runner.py",
        "key = (kind.rotary_dim, kind.rope_theta)",
        "key = (kind.rotary_dim, 0.0)",
        ("tests/test_features.py",),
    ),
    Mutant(
        "an option is named by its new name, whatever was typed",
        "mimo_v2_flash/cli/spelling.py",
        "name = spelled.get(option, f\"--{option.replace('_', '-')}\")",
        "name = f\"--{option.replace('_', '-')}\"",
        ("tests/cli/test_spelling.py",),
    ),
    Mutant(
        "zero is allowed where it would mean the default",
        "mimo_v2_flash/cli/option_types.py",
        "    if value < minimum:\n",
        "    if value < 0:\n",
        ("tests/cli/test_option_types.py",),
    ),
    Mutant(
        "an expert's routing weight ignored",
        "mimo_v2_flash/layers/grouped_experts.py",
        "weight_J[pair_J, None] * output_ND",
        "output_ND",
        ("tests/layers/test_grouped_experts.py",),
    ),
    Mutant(
        "the ring keeps a long step's first tokens",
        "mimo_v2_flash/kv_slots.py",
        "(position_N >= end_N - slots)",
        "(position_N < slots)",
        ("tests/test_kv_slots.py",),
    ),
    Mutant(
        "all of K scaled by its first row",
        "mimo_v2_flash/quantization/fp8_projections.py",
        "k_grid = run[:, :end_of_k]",
        "k_grid = np.repeat(run[:, :1], end_of_k, axis=1)",
        ("tests/quantization/test_fp8_projections.py",),
    ),
    Mutant(
        "V scaled by its own rows alone",
        "mimo_v2_flash/quantization/fp8_projections.py",
        "v_grid = run[:, end_of_k:end_of_v]",
        "v_grid = np.repeat(run[:, -1:], end_of_v - end_of_k, axis=1)",
        ("tests/quantization/test_fp8_projections.py",),
    ),
    Mutant(
        "halved codes with their old scales",
        "mimo_v2_flash/quantization/fp8.py",
        "self.scale * np.float32(2)",
        "self.scale",
        ("tests/convert/test_encoding.py",),
    ),
    Mutant(
        "scales of loaded weights that nobody checks",
        "mimo_v2_flash/quantization/fp8.py",
        """        vars(weight)["unchecked"] = where, vars(weight).pop("scale")\n""",
        "",
        ("tests/checkpoint/test_check.py",),
    ),
    Mutant(
        "scales checked again at each use",
        "mimo_v2_flash/quantization/fp8.py",
        "    @cached_property\n    def scale(",
        "    @property\n    def scale(",
        ("tests/checkpoint/test_check.py",),
    ),
    Mutant(
        "bytes that belong to no tensor",
        "mimo_v2_flash/checkpoint/safetensors_file.py",
        "        if begin != end:\n",
        "        if begin < end:\n",
        ("tests/checkpoint/test_safetensors_damage.py",),
    ),
    Mutant(
        "sinks of another rank's heads",
        "mimo_v2_flash/checkpoint/subset.py",
        "        AxisSlice(0, queries),\n    )",
        "        AxisSlice(0, range(len(queries))),\n    )",
        ("tests/checkpoint/test_shard_weights.py",),
    ),
    Mutant(
        "a KV head of another rank",
        "mimo_v2_flash/parallel_config.py",
        "first = count * self.tensor_parallel_rank // self.tensor_parallel_size",
        "first = self.tensor_parallel_rank % count",
        ("tests/test_parallel_config.py",),
    ),
    Mutant(
        "blocks of a share as high as the whole's",
        "mimo_v2_flash/quantization/fp8_grid.py",
        "gcd(height, rows.start, len(rows))",
        "height",
        ("tests/checkpoint/test_shard_weights.py",),
    ),
    Mutant(
        "every rank that shares heads routes the same tokens",
        "mimo_v2_flash/layers/eager_mode.py",
        "return x_N[rank * part : (rank + 1) * part]",
        "return x_N[:part]",
        ("tests/test_equality_of_ranks.py",),
    ),
    Mutant(
        "answers of one rank alone kept",
        "mimo_v2_flash/layers/eager_dispatchers.py",
        "y_ND[tokens] += outputs",
        "y_ND[tokens] = outputs",
        ("tests/layers/test_eager_dispatchers.py",),
    ),
    Mutant(
        "a rank without tokens leaves the exchange",
        "mimo_v2_flash/layers/decoder.py",
        "        y_ND, overflow_1 = self.feed_forward(",
        "        if not len(x_ND):\n            return x_ND, None\n"
        "        y_ND, overflow_1 = self.feed_forward(",
        ("tests/test_equality_of_ranks.py",),
    ),
    Mutant(
        "what overflowed is not answered again",
        "mimo_v2_flash/layers/layer_programs.py",
        "if not np.any(np.asarray(overflow_1)):",
        "if True:",
        ("tests/test_model_runner.py", "tests/layers/test_layer_programs.py"),
    ),
    Mutant(
        "attention runs again with the experts",
        "mimo_v2_flash/layers/layer_programs.py",
        "            y_ND, overflow_1 = self.feed_forward_block(\n",
        "            x_ND = self.attention_block(\n"
        "                x_ND, metadata, cache, weights.attention_norm_D, weights.attention\n"
        "            )\n"
        "            y_ND, overflow_1 = self.feed_forward_block(\n",
        ("tests/test_model_runner.py", "tests/layers/test_layer_programs.py"),
    ),
    Mutant(
        "every rank counts its words from 0",
        "mimo_v2_flash/layers/head.py",
        "greedy(logits_NV) + vocab_start_1",
        "greedy(logits_NV)",
        ("tests/layers/test_head.py",),
    ),
    Mutant(
        "chunks after the last answer are not computed",
        "mimo_v2_flash/model_runner.py",
        "            outputs.fill(batch, x_ND)\n        return outputs.on_all",
        "            outputs.fill(batch, x_ND)\n"
        "            if np.all(step.index_Bn < (batch.first_B + batch.count_B)[:, None]):\n"
        "                break\n        return outputs.on_all",
        ("tests/test_model_runner.py",),
    ),
    Mutant(
        "an idle sequence attends",
        "mimo_v2_flash/layers/forward_batch.py",
        "return np.where(self.token_BT < 0, np.int32(-1), position_BT)",
        "return position_BT",
        ("tests/layers/test_forward_batch.py",),
    ),
    Mutant(
        "a view writes its neighbour's slots",
        "mimo_v2_flash/layers/eager_mode.py",
        "row_N=cache.first_row + row_N,",
        "row_N=row_N,",
        ("tests/test_model.py",),
    ),
    Mutant(
        "a view reads its neighbour's slots",
        "mimo_v2_flash/layers/eager_mode.py",
        "first_row + first,",
        "first,",
        ("tests/test_model.py",),
    ),
    Mutant(
        "a rank with few sequences of a view reads beyond its cache",
        "mimo_v2_flash/layers/static_mode.py",
        "np.minimum(cache.first_row + np.arange(rows), cache.sequences - 1)",
        "cache.first_row + np.arange(rows)",
        ("tests/layers/test_static_mode.py",),
    ),
    Mutant(
        "a pass begins its rows anew",
        "mimo_v2_flash/layers/eager_mode.py",
        "rows, start_B = cache.local_rows, step.start_B + first_B",
        "rows, start_B = cache.local_rows, step.start_B",
        ("tests/layers/test_eager_mode.py",),
    ),
    Mutant(
        "rows of one rank are cut into passes as if they followed those of another",
        "mimo_v2_flash/layers/eager_mode.py",
        "before_B[rows] -= before_B[rows][:1]",
        "before_B[rows] -= 0",
        ("tests/layers/test_eager_mode.py",),
    ),
    Mutant(
        "padding of a few tokens chooses experts",
        "mimo_v2_flash/layers/eager_dispatchers.py",
        "np.pad(expert_NA, rows, constant_values=num_experts)",
        "np.pad(expert_NA, rows)",
        ("tests/layers/test_eager_dispatchers.py", "tests/layers/test_dispatch_stats.py"),
    ),
    Mutant(
        "the quota is that of the innermost cgroup",
        "mimo_v2_flash/cpu/cgroup.py",
        "for n in range(len(parts) + 1)",
        "for n in (len(parts),)",
        ("tests/cpu/test_thread_count.py",),
    ),
    Mutant(
        "BLAS stays limited after a step",
        "mimo_v2_flash/cpu/blas_threads.py",
        "            _set_threads(self.replaced)",
        "            pass",
        ("tests/cpu/test_blas_threads.py",),
    ),
    Mutant(
        "the first of two steps to end frees BLAS",
        "mimo_v2_flash/cpu/blas_threads.py",
        "        if not self.entered:\n            _set_threads(self.replaced)",
        "        _set_threads(self.replaced)",
        ("tests/cpu/test_blas_threads.py",),
    ),
)
