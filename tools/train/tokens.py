"""Tokenizer: byte-level BPE with Qwen2's pre-tokenization, and encoding of the text.

Source: the tokenizer of XiaomiMiMo/MiMo-V2-Flash is Qwen2's; the special tokens keep its names.
"""

from collections.abc import Iterable

import numpy as np
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

__all__ = ["END_OF_DOCUMENT", "END_OF_TEXT", "SPECIAL", "encode", "train"]

END_OF_DOCUMENT = "\0"  # separator in the files of text; no document contains it
END_OF_TEXT = 0  # the id of the first of the special tokens
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
PRE_TOKENS = (  # Qwen2's
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


PIECES = (  # finer: no merge joins a space, a quote or a tag with the capital of a name behind it
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)| ?\p{Ll}[\p{Ll}\p{M}]*|\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Return a tokenizer of `vocabulary` tokens, trained on `texts`.

    Its merges are learned inside `PIECES`, so that a name has the same tokens after a space, a
    quote or a tag, and a model can copy it; texts are then cut as Qwen2's tokenizer does.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split(PIECES)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = split(PRE_TOKENS)
    begin = SPECIAL[END_OF_TEXT]  # before every text, as in training
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, END_OF_TEXT)]
    )
    return tokenizer


def split(pattern: str) -> pre_tokenizers.Sequence:
    """Return the pre-tokenizer that cuts texts at a pattern, then reads bytes."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def encode(tokenizer: Tokenizer, documents: list[str]) -> np.ndarray:
    """Return documents as one array of token ids, each after an end-of-text token."""
    encoded = tokenizer.encode_batch(documents, add_special_tokens=False)
    return np.concatenate([[END_OF_TEXT, *each.ids] for each in encoded]).astype(np.uint16)
