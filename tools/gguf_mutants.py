"""Mutants of GGUF files: window, value scale, experts, projections, tokens, what is left over."""

from tools.kernel_mutants import Mutant

__all__ = ["GGUF_MUTANTS"]

KEYS, WEIGHTS = "mimo_v2_flash/gguf_files/model_keys.py", "mimo_v2_flash/checkpoint/gguf_weights.py"
KEY_TESTS, WEIGHT_TESTS = (
    ("tests/gguf_files/test_model_keys.py",),
    ("tests/checkpoint/test_gguf_weights.py",),
)

GGUF_MUTANTS = (
    Mutant(
        "a GGUF file's 128 keys are taken for the model's",
        KEYS,
        "window + (window == HUB_WINDOW)",
        "window",
        KEY_TESTS,
    ),
    Mutant(
        "llama.cpp is told the hub's window",
        KEYS,
        'yield _key(WINDOW, "UINT32", config["sliding_window"])',
        'yield _key(WINDOW, "UINT32", config["sliding_window"] - 1)',
        KEY_TESTS,
    ),
    Mutant(
        "a GGUF file without a value scale has 1",
        KEYS,
        '    if name == FLOATS["attention_value_scale"]:\n',
        '    if name == FLOATS["attention_value_scale"]:\n        return 1.0\n',
        KEY_TESTS,
    ),
    Mutant(
        "all experts of a GGUF file are the first",
        WEIGHTS,
        "else tensor.data[expert]",
        "else tensor.data[0]",
        WEIGHT_TESTS,
    ),
    Mutant(
        "k of a GGUF file's fused projections begins a row late",
        WEIGHTS,
        "ends = (0, q.shape[0], q.shape[0] + k.shape[0], fused.shape[0])",
        "ends = (0, q.shape[0] + 1, q.shape[0] + k.shape[0], fused.shape[0])",
        WEIGHT_TESTS,
    ),
    Mutant(
        "special tokens of a GGUF file get other ids",
        "mimo_v2_flash/gguf_files/tokenizer_keys.py",
        "in numbered if kind != UNUSED}",
        "in numbered if kind == NORMAL}",
        ("tests/gguf_files/test_tokenizer_keys.py",),
    ),
    Mutant(
        "a tensor of another format is taken for known",
        "mimo_v2_flash/checkpoint/check.py",
        "    _refuse_other_formats(params, formats, infos)\n",
        "",
        ("tests/test_checkpoint_entrances.py",),
    ),
)
