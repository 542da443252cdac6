"""Mutants of speculative decoding: MTP heads, drafts, their verification."""

from functools import partial

from tools.kernel_mutants import Mutant, mutant_in

__all__ = ["DRAFT_MUTANTS"]

_engine = partial(mutant_in, "engine")
_HEADS = ("tests/test_mtp_runner.py",)

DRAFT_MUTANTS = (
    Mutant(
        "MTP heads have each other's weights",
        "mimo_v2_flash/mtp_runner.py",
        "            self._weights.mtp[head],\n",
        "            self._weights.mtp[head - 1],\n",
        _HEADS,
    ),
    Mutant(
        "MTP heads read hidden states after the final norm",
        "mimo_v2_flash/model_runner.py",
        "            self.mtp.keep(batch, x_ND, cache, ",
        "            from .kernels.rmsnorm import rmsnorm\n\n"
        "            y_ND = rmsnorm(x_ND, self._weights.final_norm_D, epsilon=1e-5)\n"
        "            self.mtp.keep(batch, y_ND, cache, ",
        _HEADS,
    ),
    Mutant(
        "the hidden state comes before the embedding",
        "mimo_v2_flash/kernels/mtp_input.py",
        "np.concatenate(parts, axis=1)",
        "np.concatenate(parts[::-1], axis=1)",
        ("tests/kernels/test_mtp_input.py",),
    ),
    Mutant(
        "MTP heads do not scale their values",
        "mimo_v2_flash/layers/mtp.py",
        "        groups = context.tensor_group, context.expert_group\n",
        "        from dataclasses import replace\n\n"
        "        spec = replace(spec, attention=replace(spec.attention, value_scale=1.0))\n"
        "        groups = context.tensor_group, context.expert_group\n",
        _HEADS,
    ),
    Mutant(
        "an MTP head reads the token that belongs to the head before it",
        "mimo_v2_flash/mtp_runner.py",
        "np.maximum(position_N - 1 - head, 0)",
        "np.maximum(position_N - head, 0)",
        _HEADS,
    ),
    Mutant(
        "MTP heads share the last layer's KV cache",
        "mimo_v2_flash/mtp_runner.py",
        "replace(batch, position_N=position_N), self._first + head\n",
        "replace(batch, position_N=position_N), self._first - 1\n",
        _HEADS,
    ),
    Mutant(
        "MTP heads read tokens that have no hidden state",
        "mimo_v2_flash/mtp_runner.py",
        "np.where(position_N > head, position_N, -1)",
        "np.where(position_N >= head, position_N, -1)",
        _HEADS,
    ),
    _engine(
        "a refused draft is made up for by the model's own distribution",
        "sampler",
        "np.log(np.maximum(p_A - q_A, 0))",
        "np.log(p_A + 0 * q_A)",
        "sampler",
    ),
    _engine(
        "a draft is accepted as often as the model would draw it",
        "sampler",
        "        if uniform * drafted < np.sum(",
        "        if uniform < np.sum(",
        "sampler",
    ),
    _engine(
        "a refused draft is made up for with the draft's noise",
        "sampler",
        "ACCEPTANCE, RESIDUAL = 1, 2 ",
        "ACCEPTANCE, RESIDUAL = 1, 0 ",
        "sampler",
    ),
    _engine(
        "an accepted draft is read again",
        "output_processor",
        "    sequence.computed += 1  # the draft is in the cache\n",
        "",
        "drafter",
    ),
    _engine(
        "drafts go beyond the tokens that are left",
        "drafter",
        "sequence.request.limit - len(sequence.new_tokens) - 1\n",
        "sequence.request.limit - len(sequence.new_tokens)\n",
        "drafter",
    ),
    _engine(
        "the token after the last draft is lost",
        "worker",
        "np.minimum(np.arange(width), draft_R1)",
        "np.minimum(np.arange(width), np.maximum(draft_R1 - 1, 0))",
        "engine_schedules",
    ),
    _engine(
        "MTP heads see what a row's former sequence left",
        "worker",
        "                self._forget_heads(part.row)\n",
        "                pass\n",
        "worker",
    ),
    _engine(
        "a draft that makes a step NaN ends its request",
        "step_runner",
        "        rows = [row for row in errors if by_row[row].drafts]\n",
        "        rows: list[int] = []\n",
        "drafter",
    ),
    _engine(
        "a head reads the whole window before its first draft",
        "drafter",
        "min(cache.window - 2, CATCH_UP)",
        "cache.window - 2",
        "drafter",
    ),
    _engine(
        "a draft is not bound by the constraint",
        "drafter",
        "sequence, vocab_size, constraint=constraint, drafted=drafted)",
        "sequence, vocab_size, drafted=drafted)",
        "drafter",
    ),
    _engine(
        "a sequence whose drafts are refused goes on with drafts",
        "draft_rule",
        "return 0 if sequence.draft_pause else self._depth",
        "return self._depth",
        "draft_rule",
    ),
    _engine(
        "drafts are tried however much the trials lose",
        "draft_rule",
        "        if credit < (0 if self.best else self.loss):\n",
        "        if self.since[0] < 0:\n",
        "draft_rule",
    ),
    _engine(
        "steps are compared with those of another load",
        "draft_rule",
        "CLOSE = 12 ",
        "CLOSE = 400 ",
        "draft_rule",
    ),
    _engine(
        "a comparison that misleads is believed",
        "draft_rule",
        "costs[(len(costs) + 1) // 2 - (len(costs) == 1)]",
        "costs[0]",
        "draft_rule",
    ),
)
