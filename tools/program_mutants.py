"""Mutants of programs: ranges of layers, and which programs a model has."""

from functools import partial

from tools.kernel_mutants import Mutant, mutant_in

__all__ = ["PROGRAM_MUTANTS"]

_layer, _cost = partial(mutant_in, "layers"), partial(mutant_in, "costs")

PROGRAM_MUTANTS = (
    Mutant(
        "programs for each length of a cache",
        "mimo_v2_flash/model.py",
        "length = self._cache_length or self._context.mode.cache_length(length, limit)",
        "length = self._context.mode.cache_length(length, limit)",
        ("tests/test_model_loader.py",),
    ),
    _layer(
        "all layers of a range have the first kind of attention",
        "layer_range",
        "metadata[kind]",
        "metadata[0]",
    ),
    _layer(
        "the next range begins a layer late",
        "layer_range",
        "range(start, min(start + most, count)) for",
        "range(start + (start > 0), min(start + most, count)) for",
    ),
    _layer(
        "a range takes the caches of the first layers",
        "decoder_stack",
        "self._context.rank_ids, inputs.caches[part], inputs.weights[part])",
        "self._context.rank_ids, inputs.caches[: len(layers)], inputs.weights[part])",
    ),
    _layer(
        "what may overflow is in a range",
        "decoder_stack",
        "if max(map(len, dispatchers)) == 1:",
        "if True:",
    ),
    _layer(
        "a program is bounded by the tokens of one rank",
        "decoder_stack",
        "rows = batch.longest * self._context.parallel_config.data_parallel_size",
        "rows = batch.longest",
    ),
    _layer(
        "a few rows take fewer instructions than 128",
        "program_size",
        "padded = -(-rows // ROWS) * ROWS",
        "padded = rows",
    ),
    _layer(
        "every rank brings the hidden states of its tensor group",
        "replicated_range",
        "x_ND.astype(np.float32) * brings_1",
        "x_ND.astype(np.float32)",
    ),
    _layer(
        "an exchange too few: heads of other ranks are missing",
        "replicated_range",
        "y_MD = self.world_group.all_reduce(place_part(partial_ND, data_rank_1, self.parts))",
        "y_MD = place_part(partial_ND, data_rank_1, self.parts)",
    ),
    _layer(
        "tokens lie in the place of the first rank's",
        "replicated_range",
        "ops.constant(x_ND, part_M) == rank_1",
        "ops.constant(x_ND, part_M) == rank_1 * np.int32(0)",
    ),
    _layer(
        "a bad row is in every row",
        "replicated_range",
        "    return np.where(is_local_M1, np.concatenate([x_ND] * parts, axis=0), np.float32(0))",
        "    return np.concatenate([x_ND] * parts, axis=0) * is_local_M1.astype(np.float32)",
    ),
    _layer(
        "a rank leaves tokens of all to others of its tensor group",
        "replicated_range",
        "replace(feed_forward, tensor_group=ALONE)",
        "replace(feed_forward)",
    ),
    _layer(
        "two collectives cost one latency",
        "exchange_choice",
        "groups = plan.world_size, plan.expert_parallel_size",
        "groups = (plan.world_size,)",
    ),
    Mutant(
        "the layer of a bad number is sought in ranges of layers",
        "mimo_v2_flash/model_runner.py",
        '        options["layers_per_program"] = 1  # what is looked at is what programs return\n',
        "",
        ("tests/layers/test_nonfinite.py",),
    ),
    _cost(
        "launches take no time",
        "step_figures",
        "return self.roofline + self.launches * trainium2.LAUNCH_SECONDS",
        "return self.roofline",
    ),
    _cost(
        "the launch that was measured counts again",
        "step_figures",
        "more = self.launches - 1  #",
        "more = self.launches  #",
    ),
    _cost(
        "collectives of the head are of a layer",
        "step_figures",
        "        if entry.layers\n",
        "",
    ),
    _cost(
        "drafts cost nothing to draft",
        "step_figures",
        "[step, ledger.drafting], deployment",
        "[step], deployment",
    ),
    _cost(
        "FP8 is expected to be as good as bfloat16",
        "efficiency",
        "return STORED if",
        "return WIDE if",
    ),
    _cost(
        "the best plan need not fit",
        "plan_comparison",
        "[each for each in compared if each.fits]",
        "list(compared)",
    ),
)
