"""Mutants of what keeps the trouble of a row, or of a rank, its own and names it."""

from tools.kernel_mutants import Mutant

__all__ = ["ISOLATION_MUTANTS"]

ISOLATION_MUTANTS = (
    Mutant(
        "padding has the embedding of token 0, which may be bad",
        "mimo_v2_flash/layers/static_mode.py",
        'mode="edge"',
        'mode="constant"',
        ("tests/layers/test_nonfinite.py",),
    ),
    Mutant(
        "a bad row leaves its keys and values behind",
        "mimo_v2_flash/kv_cache.py",
        "array[first:last][is_discarded_Z] = empty",
        "array[first:first] = empty",
        ("tests/layers/test_nonfinite.py",),
    ),
    Mutant(
        "a row is good if the tokens whose logits are wanted are",
        "mimo_v2_flash/model_runner.py",
        "outputs.is_bad_B[cache.local_rows][bad_row_N] = True",
        "outputs.is_bad_B[cache.local_rows][bad_row_N] = False",
        ("tests/layers/test_nonfinite.py",),
    ),
    Mutant(
        "what a bad row held before the step is taken for good",
        "mimo_v2_flash/model_runner.py",
        "        if np.any(is_lost_B):",
        "        if not np.size(is_lost_B):",
        ("tests/layers/test_nonfinite.py",),
    ),
    Mutant(
        "every rank names the cause that it has seen itself",
        "mimo_v2_flash/layers/nonfinite.py",
        "group.all_gather(np.array(self._first, np.int64))",
        "np.array([self._first], np.int64)",
        ("tests/test_nonfinite_on_ranks.py",),
    ),
    Mutant(
        "a bad expert has its number on the rank",
        "mimo_v2_flash/layers/nonfinite.py",
        "expert=self._expert_ids[expert]",
        "expert=int(expert)",
        ("tests/layers/test_nonfinite.py",),
    ),
    Mutant(
        "ranks are compared whatever part of the weights they hold",
        "mimo_v2_flash/parallel/consistency.py",
        "if text_P[rank] != text_P[keys_P.index(key)]",
        "if text_P[rank] != text_P[0]",
        ("tests/parallel/test_consistency.py",),
    ),
    Mutant(
        "a fingerprint is of whole tensors alone",
        "mimo_v2_flash/checkpoint/params.py",
        'digests["weights" if is_whole else "heads"].update(_sample(leaf))',
        'is_whole and digests["weights"].update(_sample(leaf))',
        ("tests/checkpoint/test_params.py",),
    ),
    Mutant(
        "a cache's dtype is a rank's choice",
        "mimo_v2_flash/kv_cache.py",
        "self.layers[0].k_ZKQ.dtype.name",
        "1",
        ("tests/test_disagreement.py",),
    ),
    Mutant(
        "a rendezvous keeps the last arrays",
        "mimo_v2_flash/parallel/rendezvous.py",
        "        self._values[self.index] = None",
        "        pass",
        ("tests/parallel/test_rendezvous.py",),
    ),
    Mutant(
        "a chunk is longer than its cache",
        "mimo_v2_flash/layers/static_mode.py",
        "min(max(1, max_step // rows), cache.max_length)",
        "max(1, max_step // rows)",
        ("tests/layers/test_static_mode.py",),
    ),
)
