"""Mutants of the expert store: keys, counts, pins, groups, reads, and the simulator."""

from functools import partial

from tools.kernel_mutants import Mutant, mutant_in

__all__ = ["EXPERT_STORE_MUTANTS"]

_store = partial(mutant_in, "expert_store")

EXPERT_STORE_MUTANTS = (
    Mutant(
        "a plan lets a token read all experts",
        "mimo_v2_flash/costs/decode_time.py",
        "experts += touched * row.nbytes / rate",
        "experts += row.nbytes / rate",
        ("tests/costs/test_decode_time.py",),
    ),
    Mutant(
        "a plan lets a store miss nothing",
        "mimo_v2_flash/costs/decode_time.py",
        "missed = touched * max(0, whole - placement.expert_cache)",
        "missed = 0",
        ("tests/costs/test_decode_time.py",),
    ),
    Mutant(
        "a plan measures experts that are in the processor's cache",
        "mimo_v2_flash/machine/decode_rates.py",
        "[None] + index * A) % number",
        "[None]) % number",
        ("tests/machine/test_decode_rates.py",),
    ),
    Mutant(
        "devices get more tensor parallelism than they need",
        "mimo_v2_flash/costs/parallel_choice.py",
        "for size in range(1, number + 1):",
        "for size in range(number, 0, -1):",
        ("tests/costs/test_parallel_choice.py",),
    ),
    Mutant(
        "a chat takes no device map before its command",
        "mimo_v2_flash/cli/main.py",
        ', "--expert-cache-policy", "--device-map")',
        ', "--expert-cache-policy")',
        ("tests/test_guides.py::test_a_chat_of_the_guide_answers",),
    ),
    Mutant(
        "a device map forgets that a layer has more than one expert",
        "mimo_v2_flash/checkpoint/weight_counts.py",
        "return self.number * self.row.nbytes",
        "return self.row.nbytes",
        ("tests/checkpoint/test_weight_counts.py",),
    ),
    Mutant(
        "a device map has a store before all that is resident",
        "mimo_v2_flash/costs/placement.py",
        "for each in (*resident, *stores):",
        "for each in (*stores, *resident):",
        ("tests/costs/test_placement.py",),
    ),
    Mutant(
        "a device map gives a store memory that keys and values need",
        "mimo_v2_flash/costs/placement.py",
        "room = memory - self.resident_bytes - self.other_bytes",
        "room = memory - self.resident_bytes",
        ("tests/costs/test_placement.py",),
    ),
    Mutant(
        "an expert store reads what was quantized in memory alone",
        "mimo_v2_flash/device_map.py",
        "is_in_files = not request.text or isq_cache is not None",
        "is_in_files = True",
        ("tests/test_device_map.py",),
    ),
    _store(
        "a key without its layer",
        "residency",
        "return layer * self.experts + np.asarray(experts, np.int64)",
        "return np.asarray(experts, np.int64)",
    ),
    _store(
        "a record under a key without its layer",
        "store",
        "return layer * self.size_LE.shape[1] + expert",
        "return expert",
    ),
    _store(
        "counts that do not decay",
        "access_history",
        "// HALF_LIFE\n        return self._decayed_K[keys] >> np.minimum(period_K"
        " - self._period_K[keys], MAX_SHIFT)",
        "// HALF_LIFE\n        return self._decayed_K[keys]",
    ),
    _store(
        "counts that decay by the tokens of any layer",
        "access_history",
        "self._tokens_L[layers] += tokens",
        "self._tokens_L += tokens",
    ),
    _store(
        "an expert that a call uses is evicted",
        "residency",
        "self._is_held_K & (self._pins_K == 0) & (tier_K <= highest)",
        "self._is_held_K & (tier_K <= highest)",
    ),
    _store(
        "a group evicts what its call needs later",
        "residency",
        "highest = FREE if group.experts else NEEDED",
        "highest = NEEDED",
    ),
    _store(
        "a static set goes like any other",
        "residency",
        "* self.experts + expert] = KEPT",
        "* self.experts + expert] = FREE",
    ),
    _store(
        "pins that are never released",
        "residency",
        "self._pins_K[self._keys(layer, group.experts)] -= 1",
        "pass",
    ),
    _store(
        "a budget that is exceeded by a byte",
        "residency",
        "missing = self.held_bytes + int(self.size_K[key]) - self.budget\n",
        "missing = self.held_bytes + int(self.size_K[key]) - self.budget - 1\n",
    ),
    _store(
        "the most used goes first",
        "eviction_policies",
        "return history.count_K[keys]\n",
        "return -history.count_K[keys]\n",
        "residency",
    ),
    _store(
        "groups in the order of the last",
        "store",
        "done += self._run_group(layer, experts[done:], compute)",
        "done += self._run_group(layer, experts[::-1][done:], compute)",
    ),
    _store(
        "what could not be read counts as held",
        "store",
        "                    self._residency.drop(layer, expert)\n",
        "",
    ),
    _store(
        "experts that stay pinned when a call fails",
        "store",
        "        finally:\n            self._release(layer, group)\n",
        "        except ZeroDivisionError:\n            raise\n"
        "        self._release(layer, group)\n",
    ),
    _store(
        "a buffer that lives on",
        "store",
        "freed = [self._held.pop(key).result().buffer for key in group.evicted]",
        "freed = [self._held[key].result().buffer for key in group.evicted]",
    ),
    _store(
        "a short read that is taken for a whole one",
        "file_reader",
        "if filled < piece.needed:\n",
        "if filled < 0:\n",
    ),
    _store(
        "an array at the offset of its neighbour",
        "record_layout",
        "segment.offset + region.begin - segment.begin, region)",
        "segment.offset, region)",
    ),
    _store(
        "what is needed next goes first",
        "simulator",
        "return -index_U[start_K[keys]",
        "return index_U[start_K[keys]",
    ),
    _store(
        "a static set that is learnt from what it is judged on",
        "simulator",
        "first = trace.calls[: len(trace.calls) // 2]",
        "first = trace.calls",
    ),
    _store(
        "a pool that is as large as all of them",
        "simulator",
        "budget = capacity // len(pools)",
        "budget = capacity",
    ),
    _store(
        "a static set that leaves no room",
        "simulator",
        "room, chosen = capacity - widest * int(size_LE.max()), []",
        "room, chosen = capacity, []",
    ),
    _store(
        "reuse of another layer's experts",
        "routing_statistics",
        "np.isin(call.experts, previous[call.layer])",
        "np.isin(call.experts, list(previous.values())[-1])",
    ),
    Mutant(
        "layers are counted on from pass to pass",
        "mimo_v2_flash/layers/routing_recorder.py",
        "                self._pass.layer = -1\n",
        "                self._pass.layer = getattr(self._pass, 'layer', -1)\n",
        ("tests/layers/test_routing_recorder.py",),
    ),
    Mutant(
        "a prompt's chunk counts as decoded tokens",
        "mimo_v2_flash/layers/routing_recorder.py",
        "return run.tokens <= FEW_TOKENS and run.kv_length > 0",
        "return True",
        ("tests/layers/test_routing_recorder.py",),
    ),
    Mutant(
        "a read that fails ends the engine",
        "mimo_v2_flash/engine/engine.py",
        "isinstance(error, ExpertReadError) and self._model.group.size == 1",
        "False",
        ("tests/expert_store/test_backend.py",),
    ),
)
