"""The generation defaults of a checkpoint: how its tokens are chosen and what ends a text.

Three files say it: config.json, generation_config.json and the tokenizer's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.config_keys import check_keys
from mimo_v2_flash.config_rules import refuse
from mimo_v2_flash.engine.sampling_params import SamplingParams
from mimo_v2_flash.gguf_files import as_folder
from mimo_v2_flash.inputs import as_token_ids
from mimo_v2_flash.json_object import read_json_object

from .generation_keys import GENERATION_KEYS
from .tokenizer_vocab import (
    GENERATION_CONFIG,
    TokenizerVocab,
    read_end_tokens,
    read_tokenizer_vocab,
)

__all__ = ["SAMPLING", "GenerationConfig", "load_generation_config"]

SAMPLING = (
    *("temperature", "top_k", "top_p", "min_p"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)
"""The sampling parameters that a checkpoint may have, and a call of `generate` others of."""


@dataclass(frozen=True, slots=True)
class GenerationConfig(SamplingParams):
    """What `generate` does unless it is called with other values; by default as transformers.

    Decoding is greedy, and once a temperature is set it samples from the 50 best tokens.

    Attributes
    ----------
    eos_token_ids
        Token ids that end a sequence, in ascending order.
    suppress_tokens
        Token ids that are never drawn, in ascending order.

    Raises
    ------
    ValueError
        If a sampling parameter is not allowed; the message names it.
    """

    top_k: int = 50
    eos_token_ids: tuple[int, ...] = ()
    suppress_tokens: tuple[int, ...] = ()

    @classmethod
    def of_config(cls, config: MiMoConfig) -> "GenerationConfig":
        """Return the defaults of a model of which nothing but its config is known.

        Whether its end tokens are in the vocabulary is checked when they are to end a text.
        """
        ends = config.eos_token_id
        several = ends if isinstance(ends, tuple) else () if ends is None else (ends,)
        return cls(eos_token_ids=tuple(sorted({*several})))

    def sampling(self) -> dict[str, Any]:
        """Return the sampling parameters by name."""
        return {name: getattr(self, name) for name in SAMPLING}

    def with_sampling(self, sampling: Mapping[str, Any]) -> "GenerationConfig":
        """Return this config with other sampling parameters.

        Raises
        ------
        ValueError
            If one is unknown or not allowed; the message names it.
        """
        if unknown := [name for name in sampling if name not in SAMPLING]:
            raise ValueError(
                f"{', '.join(unknown)}: not a setting; there are {', '.join(SAMPLING)}"
            )
        return replace(self, **sampling)

    def with_tokenizer(self, vocab: TokenizerVocab, vocab_size: int) -> "GenerationConfig":
        """Return this config for a text: its end token ends it, ids that it lacks are not drawn.

        Parameters
        ----------
        vocab
            The tokenizer's tokens.
        vocab_size
            Rows of the model's vocabulary, which may be more or fewer than the tokens.

        Raises
        ------
        ValueError
            If the end token is outside of the model's vocabulary.
        """
        end = as_token_ids(f"{vocab.source}: id of eos_token", vocab.eos_token_id, vocab_size)
        lacking = set(range(vocab_size)).difference(vocab.token_ids)
        return replace(
            self,
            eos_token_ids=tuple(sorted(end.union(self.eos_token_ids))),
            suppress_tokens=tuple(sorted(lacking.union(self.suppress_tokens))),
        )


def load_generation_config(folder: str | PathLike[str], config: MiMoConfig) -> GenerationConfig:
    """Return the generation defaults of the checkpoint in `folder`, whose config is `config`.

    What a file does not say, or says null of, is as in transformers: without `do_sample` decoding
    is greedy. The end tokens of all files end a text. Ids that the tokenizer does not have are
    never drawn.

    Raises
    ------
    ValueError
        If a file is damaged, or asks for what is not computed; the message names file and key.

    Warns
    -----
    UserWarning
        If generation_config.json has keys that nothing is known of.
    """
    path, size = as_folder(folder), config.vocab_size
    file = path / GENERATION_CONFIG
    entries = read_json_object(file) if file.is_file() else {}
    ends = as_token_ids(f"{path / 'config.json'}: eos_token_id", config.eos_token_id, size)
    ends |= read_end_tokens(path, size)
    suppressed = as_token_ids(f"{file}: suppress_tokens", entries.get("suppress_tokens"), size)
    try:
        check_keys(file, entries, GENERATION_KEYS, stacklevel=3)
        sampling = _sampling(entries)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    defaults = GenerationConfig(
        **sampling,
        eos_token_ids=tuple(sorted(ends)),
        suppress_tokens=tuple(sorted(suppressed)),
    )
    vocab = read_tokenizer_vocab(path)
    return defaults if vocab is None else defaults.with_tokenizer(vocab, size)


def _sampling(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling parameters that a generation_config.json asks for, checked."""
    sampling = {name: entries[name] for name in SAMPLING if entries.get(name) is not None}
    SamplingParams(**sampling)  # also those that greedy decoding makes no use of
    do_sample = entries.get("do_sample") or False
    if not isinstance(do_sample, bool):
        refuse("do_sample", do_sample, "true or false")
    return {"temperature": 1.0} | sampling if do_sample else sampling | {"temperature": 0.0}
