"""Mutants of the engine: its scheduler, sampler, prefix store and rows."""

from functools import partial

from tools.kernel_mutants import Mutant, mutant_in

__all__ = ["ENGINE_MUTANTS"]


_engine = partial(mutant_in, "engine")

ENGINE_MUTANTS = (
    _engine(
        "a row is not reset",
        "step_runner",
        "            sequence.computed = sequence.reused = start\n",
        "            cache = self._executor._worker.cache\n"
        "            sequence.computed = int(cache.length_B[sequence.running_row])\n",
        "engine_schedules",
    ),
    Mutant(
        "a copied row keeps its old positions",
        "mimo_v2_flash/kv_cache.py",
        "            for part in layer:\n                part[target_T] = part[source_T]\n",
        "            for part in layer[:2]:\n                part[target_T] = part[source_T]\n",
        ("tests/engine/test_engine_schedules.py",),
    ),
    Mutant(
        "answers are copied by ranks that do not hold their rows",
        "mimo_v2_flash/kv_cache.py",
        "enumerate(self.layers if is_local else ())",
        "enumerate(self.layers)",
        ("tests/engine/test_engine_models.py",),
    ),
    _engine(
        "a block of a prefix lies one position late",
        "prefix_store",
        "self._cache.flat_rows(layer, row, position_T)\n            cache.k_ZKQ",
        "self._cache.flat_rows(layer, row, position_T + 1)\n            cache.k_ZKQ",
    ),
    _engine(
        "a sliding layer starts without its window",
        "prefix_store",
        "max(0, start - self._cache.window + 1) // BLOCK",
        "start // BLOCK",
    ),
    _engine(
        "a prompt is known to its last token",
        "prefix_store",
        "        last = len(token_T) - 1\n        path",
        "        last = len(token_T)\n        path",
    ),
    _engine(
        "the newest prefix is dropped first",
        "prefix_store",
        "                used.move_to_end(block)\n",
        "                used.move_to_end(block, last=False)\n",
    ),
    _engine(
        "noise of the row and not of the answer",
        "output_processor",
        "        sequence.index,\n        sequence.length,",
        "        sequence.row or 0,\n        sequence.length,",
        "engine",
        "engine_schedules",
    ),
    _engine(
        "noise of the step and not of the position",
        "output_processor",
        "        sequence.length,\n",
        "        len(sequence.new_tokens),\n",
        "engine",
        "engine_schedules",
    ),
    _engine(
        "noise by rank among the survivors and not by token id",
        "sampler",
        "draw.position, token_A)",
        "draw.position, np.arange(len(token_A)))",
    ),
    _engine(
        "the high half of a seed is ignored",
        "noise",
        "= seed, answer",
        "= seed & 0xFFFFFFFF, answer",
    ),
    _engine(
        "penalties of a neighbour",
        "sampler",
        "        draw, score_V = draws[row], score_RV[row]",
        "        draw, score_V = draws[changed[0]], score_RV[row]",
    ),
    _engine(
        "temperature forgotten",
        "sampler",
        "        score_SV /= temperature_S1",
        "        score_SV /= temperature_S1 > 0",
    ),
    _engine(
        "top-p keeps one token too many",
        "sampler",
        "np.count_nonzero(is_short_JC, axis=1), C)",
        "np.count_nonzero(is_short_JC, axis=1) + 1, C)",
    ),
    _engine(
        "top-p of all tokens where top-k keeps a few",
        "sampler",
        "is_whole_S = (k_S == V) & (p_S < 1)",
        "is_whole_S = p_S < 1",
    ),
    _engine(
        "a frequency penalty that counts once",
        "sampler",
        "params.frequency_penalty * count_A",
        "params.frequency_penalty * (count_A > 0)",
    ),
    _engine(
        "log-probabilities of a neighbour",
        "output_processor",
        "token_logprobs(logits_RV[rows]",
        "token_logprobs(logits_RV[::-1][rows]",
    ),
    _engine(
        "a waiting request gains no priority",
        "scheduler",
        "        return -(request.priority + waited), request.id",
        "        return -(request.priority + 0 * waited), request.id",
    ),
    _engine(
        "the newest request is served first",
        "scheduler",
        "        return -(request.priority + waited), request.id",
        "        return -(request.priority + waited), -request.id",
    ),
    _engine(
        "a step of one token too many",
        "scheduler",
        "room = self._max_step - (0",
        "room = self._max_step + 1 - (0",
    ),
    _engine(
        "every prompt has a whole budget",
        "scheduler",
        "            budget -= len(tokens)\n",
        "",
    ),
    _engine(
        "a small request overtakes one that needs more rows",
        "scheduler",
        "                return  # those after it do not overtake it",
        "                continue",
    ),
    _engine(
        "rows of one rank first",
        "scheduler",
        "(self._known_prefix(request, r), len(self._free[r]))",
        "(self._known_prefix(request, r), -r)",
    ),
    _engine(
        "a row that is not given back",
        "scheduler",
        "        free.append(sequence.row)\n",
        "",
        "scheduler",
        "engine_schedules",
    ),
    _engine(
        "a cancelled sequence is computed once more",
        "engine",
        "            self._forget_finished(events)\n            scheduled",
        "            scheduled",
        "engine_cancel",
    ),
    _engine(
        "an end token is one token late",
        "output_processor",
        "if sequence.new_tokens[-1] in request.end_tokens",
        "if sequence.new_tokens[-2:-1] and sequence.new_tokens[-2] in request.end_tokens",
        "engine",
    ),
    _engine(
        "an answer of one token too many",
        "output_processor",
        "if len(sequence.new_tokens) >= request.limit",
        "if len(sequence.new_tokens) > request.limit",
        "engine",
    ),
    _engine(
        "answers share a constraint",
        "request",
        "constraint.copy() if constraint else None",
        "constraint",
        "engine",
    ),
)
