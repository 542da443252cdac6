"""Tokenizer: byte-level BPE with Qwen2's pre-tokenization, and encoding of the text.

Source: the tokenizer of XiaomiMiMo/MiMo-V2-Flash is Qwen2's; the special tokens keep its names.
"""

from pathlib import Path

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

from .corpus import END_OF_DOCUMENT

__all__ = ["END_OF_TEXT", "SPECIAL", "VOCABULARY", "encode", "train"]

VOCABULARY = 4096
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
PRE_TOKENS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train(text: Path) -> Tokenizer:
    """Return a tokenizer of `VOCABULARY` tokens, trained on the documents in `text`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    documents = text.read_text(encoding="utf-8").split(END_OF_DOCUMENT)
    tokenizer.train_from_iterator(documents, trainer)
    begin = SPECIAL[END_OF_TEXT]  # before every text, as in training
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, END_OF_TEXT)]
    )
    return tokenizer


def encode(tokenizer: Tokenizer, text: Path) -> np.ndarray:
    """Return the documents in `text` as one array of token ids, each after an end-of-text token."""
    documents = text.read_text(encoding="utf-8").split(END_OF_DOCUMENT)
    encoded = tokenizer.encode_batch(documents, add_special_tokens=False)
    return np.concatenate([[END_OF_TEXT, *each.ids] for each in encoded]).astype(np.uint16)
