"""Mutants of generation: how tokens are drawn, what ends a text, and its characters."""

from tools.kernel_mutants import Mutant

__all__ = ["GENERATION_MUTANTS"]

GENERATION_MUTANTS = (
    Mutant(
        "an MTP head is compared where it has no hidden state to read",
        "mimo_v2_flash/generation/mtp_agreement.py",
        "is_read_BT = position_BT > head",
        "is_read_BT = position_BT >= head",
        ("tests/generation/test_mtp_agreement.py::test_heads_agree_as_often_as_in_pytorch",),
    ),
    Mutant(
        "MTP heads read more tokens at once than their window holds",
        "mimo_v2_flash/generation/mtp_agreement.py",
        "attention.window - 2)",
        "attention.window * 2)",
        ("tests/generation/test_mtp_agreement.py::test_heads_agree_as_often_as_in_pytorch",),
    ),
    Mutant(
        "the likelihood of a text with MTP heads is of the tokens that are read",
        "mimo_v2_flash/generation/mtp_agreement.py",
        "target_BT[:, columns][is_token_BT]",
        "token_BT[:, columns][is_token_BT]",
        ("tests/generation/test_mtp_agreement.py::test_heads_agree_as_often_as_in_pytorch",),
    ),
    Mutant(
        "the checkpoint's sampling parameters are ignored",
        "mimo_v2_flash/model.py",
        "(generation_config or self.generation_config).with_sampling(sampling)",
        "GenerationConfig().with_sampling(sampling)",
        ("tests/test_model_loader.py",),
    ),
    Mutant(
        "generation_config.json replaces the end tokens of config.json",
        "mimo_v2_flash/generation/generation_config.py",
        "    ends |= read_end_tokens(",
        "    ends = read_end_tokens(",
        ("tests/generation/test_generation_config.py",),
    ),
    Mutant(
        "the tokenizer's end token is not read",
        "mimo_v2_flash/generation/generation_config.py",
        "tuple(sorted(end.union(self.eos_token_ids)))",
        "self.eos_token_ids",
        ("tests/generation/test_generation_config.py",),
    ),
    Mutant(
        "without top_k every token may be drawn",
        "mimo_v2_flash/generation/generation_config.py",
        "top_k: int = 50",
        "top_k: int = 0",
        ("tests/generation/test_generation_keys.py",),
    ),
    Mutant(
        "a temperature without do_sample samples",
        "mimo_v2_flash/generation/generation_config.py",
        'if do_sample else sampling | {"temperature": 0.0}',
        'if do_sample or sampling else {"temperature": 0.0}',
        ("tests/generation/test_generation_keys.py",),
    ),
    Mutant(
        "a key that would change the tokens passes",
        "mimo_v2_flash/generation/generation_config.py",
        "check_keys(file, entries, GENERATION_KEYS, stacklevel=3)",
        "pass",
        ("tests/generation/test_generation_keys.py",),
    ),
    Mutant(
        "an end token past the vocabulary is taken",
        "mimo_v2_flash/inputs.py",
        "not 0 <= token < vocab_size",
        "not 0 <= token",
        ("tests/test_inputs.py",),
    ),
    Mutant(
        "ids past the tokenizer are drawn by sampling",
        "mimo_v2_flash/engine/sampler.py",
        "            score_RV[:, self._suppressed_A] = -np.inf\n",
        "",
        ("tests/engine/test_generate.py",),
    ),
    Mutant(
        "ids past the tokenizer are taken greedily",
        "mimo_v2_flash/engine/step_runner.py",
        "if not self._suppressed.intersection(token_Bn[wanted, -1].tolist()):",
        "if True:",
        ("tests/engine/test_generate.py",),
    ),
    Mutant(
        "the added tokens are not of the tokenizer",
        "mimo_v2_flash/generation/tokenizer_vocab.py",
        '*((token["content"], token["id"]) for token in added), ',
        "",
        ("tests/generation/test_tokenizer_vocab.py",),
    ),
    Mutant(
        "a fresh seed is always the same",
        "mimo_v2_flash/engine/seeds.py",
        "secrets.randbits(BITS)",
        "0",
        ("tests/engine/test_seeds.py",),
    ),
    Mutant(
        "each rank has a fresh seed of its own",
        "mimo_v2_flash/engine/seeds.py",
        "return int(group.all_reduce(np.array([fresh], np.int64))[0])",
        "return secrets.randbits(BITS)",
        ("tests/engine/test_seeds.py",),
    ),
    Mutant(
        "tokens without text push bytes out of the window",
        "mimo_v2_flash/text/tokenizer.py",
        "[token for token in self._pending if self._text([token])][-LONGEST:]",
        "self._pending[-LONGEST:]",
        ("tests/text/test_tokenizer.py",),
    ),
    Mutant(
        "broken bytes are decoded again for each token",
        "mimo_v2_flash/text/tokenizer.py",
        "elif len(self._pending) > LONGEST:",
        "elif False:",
        ("tests/text/test_tokenizer.py",),
    ),
)
