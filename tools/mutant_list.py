"""All mutants: those of the kernels, and those of layers, cache, weights and parallelism."""

from tools.kernel_mutants import KERNEL_MUTANTS, Mutant

__all__ = ["MUTANTS", "Mutant"]

MUTANTS = (
    *KERNEL_MUTANTS,
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
        "mimo_v2_flash/checkpoint/fp8.py",
        "k_grid = run[:, :end_of_k]",
        "k_grid = np.repeat(run[:, :1], end_of_k, axis=1)",
        ("tests/checkpoint/test_fp8.py",),
    ),
    Mutant(
        "V scaled by its own rows alone",
        "mimo_v2_flash/checkpoint/fp8.py",
        "v_grid = run[:, end_of_k:end_of_v]",
        "v_grid = np.repeat(run[:, -1:], end_of_v - end_of_k, axis=1)",
        ("tests/checkpoint/test_fp8.py",),
    ),
    Mutant(
        "halved codes with their old scales",
        "mimo_v2_flash/quantization/fp8.py",
        "w.scale * np.float32(2)",
        "w.scale",
        ("tests/convert/test_encoding.py",),
    ),
    Mutant(
        "scales of loaded weights that nobody checks",
        "mimo_v2_flash/quantization/fp8.py",
        """        vars(weight)["unchecked"] = f"{where}_scale_inv", vars(weight).pop("scale")\n""",
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
        "routers stored in bfloat16",
        "mimo_v2_flash/convert/plan.py",
        "is_matrix = len(info.shape) == 2 and ROUTER not in name",
        "is_matrix = len(info.shape) == 2",
        ("tests/convert/test_plan_tasks.py", "tests/test_hub_layout.py"),
    ),
    Mutant(
        "sinks of another rank's heads",
        "mimo_v2_flash/checkpoint/shard_weights.py",
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
        "mimo_v2_flash/quantization/fp8.py",
        "gcd(height, rows.start, len(rows))",
        "height",
        ("tests/checkpoint/test_shard_weights.py",),
    ),
    Mutant(
        "every rank that shares heads routes the same tokens",
        "mimo_v2_flash/layers/feed_forward.py",
        "index_n = rank_1 * np.int32(local_tokens)",
        "index_n = rank_1 * np.int32(0)",
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
        "        if not B * T:\n            return np.zeros(1), x_BTD\n"
        "        y_ND, overflow_1 = self.feed_forward(",
        ("tests/test_equality_of_ranks.py",),
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
        "            args = x_BTD, metadata.position_BT, rank_ids, *feed_forward_weights\n",
        "            x_BTD = self._attention_block(\n"
        "                x_BTD, metadata, cache, norm_D, attention_weights, kv_length=kv_length\n"
        "            )\n"
        "            args = x_BTD, metadata.position_BT, rank_ids, *feed_forward_weights\n",
        ("tests/layers/test_passage.py",),
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
        "mimo_v2_flash/layers/network.py",
        "                logits_BnV = chunk_BnV\n                continue",
        "                return chunk_BnV",
        ("tests/layers/test_network.py",),
    ),
)
