"""Mutants of an engine on many ranks: plans that are lost, shares in wrong places, silent ends."""

from functools import partial

from tools.kernel_mutants import mutant_in

__all__ = ["RANK_MUTANTS"]


_engine, _layer = partial(mutant_in, "engine"), partial(mutant_in, "layers")

RANK_MUTANTS = (
    _engine(
        "other ranks copy no rows",
        "executor",
        '        self._call("copy", source, target, now=self._worker.runs_programs)\n',
        "        self._worker.copy(source, target)\n",
        "executor",
        "engine_on_ranks",
    ),
    _engine(
        "other ranks restore no prefixes",
        "executor",
        "        if not start:\n",
        "        if not start or self._group.size > 1:\n",
        "executor",
        "engine_models",
    ),
    _engine(
        "other ranks restore a prompt without its next token",
        "executor",
        "tokens[: start + 1]",
        "tokens[:start]",
    ),
    _engine(
        "other ranks keep no prefixes",
        "executor",
        '                self._call("save", rows, now=self._worker.runs_programs)\n',
        "                self._worker.save(rows)\n",
    ),
    _engine(
        "an error in the middle of a step is told as one between steps",
        "executor",
        "            self._is_broken = True\n",
        "            self._is_broken = False\n",
    ),
    _engine(
        "an error of rank 0 is a quiet end",
        "executor",
        'None if error is None else f"{type(error).__name__}: {error}"',
        "None",
        "engine_on_ranks",
    ),
    _engine(
        "what rank 0 shares last is lost",
        "worker",
        '                if name == "share":',
        '                if name == "share" and len(args) > 1:',
    ),
    _engine(
        "a copied row keeps its old tokens",
        "worker",
        "        self._row_tokens[target] = list(self._row_tokens[source])\n",
        "        self._row_tokens[target] = self._row_tokens[source]\n",
    ),
    _engine(
        "a bad row is kept as a prefix",
        "worker",
        "            if row - plan.first_row not in bad_rows:\n",
        "            if True:\n",
    ),
    _engine(
        "a request goes to a rank that lacks its prefix",
        "scheduler",
        "(known[rank], len(self._free[rank]))",
        "(-known[rank], len(self._free[rank]))",
        "scheduler_prefixes",
        "engine_models",
    ),
    _engine(
        "a request without a seed is a collective",
        "engine",
        "resolve_seed(params.seed, ALONE)",
        "resolve_seed(params.seed, self._model.group)",
        "engine_on_ranks",
    ),
    _engine(
        "the error of a second run replaces that of the first",
        "step_runner",
        "return None, logits_BnV, errors | later",
        "return None, logits_BnV, later",
    ),
    _layer(
        "shares lie at the rows of rank 0",
        "output_shares",
        "rows = rank_rows[context.data_parallel_rank_of(rank)]",
        "rows = rank_rows[0]",
    ),
    _layer(
        "shares lie at the vocabulary of the receiver",
        "head",
        "        v = self._shard_spec(rank).tensor_range(self._vocab_size)\n",
        "        v = self._vocab_range\n",
        "output_shares",
    ),
    _layer(
        "bad rows of other ranks are taken for good",
        "output_shares",
        "outputs[-1][is_bad_PB.any(axis=0)] = np.nan",
        "outputs[-1][is_bad_PB[group.rank]] = np.nan",
    ),
    mutant_in(
        "parallel",
        "a broadcast is the last rank's",
        "thread_group",
        "lambda messages: messages[0]",
        "lambda messages: messages[-1]",
    ),
)
