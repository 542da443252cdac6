"""A tokenizer's token ids, and the end tokens of files beside it, read without a tokenizer library.

The model needs them where no text is involved: the end token ends a sequence, and ids that the
tokenizer does not have are never drawn. The files are read as transformers 5.23 reads them
(`tokenization_utils_base.py`, `_from_pretrained`).
"""

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from mimo_v2_flash.inputs import as_token_ids
from mimo_v2_flash.json_object import read_json_object, shorten

__all__ = [
    "GENERATION_CONFIG",
    "TOKENIZER_FILES",
    "TokenizerVocab",
    "read_end_tokens",
    "read_tokenizer_vocab",
]

TOKENIZER, VOCABULARY = TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
"""Files of which a tokenizer has at least one."""

GENERATION_CONFIG = "generation_config.json"
CONFIG, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"


class TokenizerVocab(NamedTuple):
    """The tokens of a tokenizer.

    Attributes
    ----------
    token_ids
        Ids of all tokens, added ones included.
    eos_token_id
        Id of the token that ends a text, None if the tokenizer names none.
    source
        The file that names this token, or the tokenizer's name: for messages.
    """

    token_ids: frozenset[int]
    eos_token_id: int | None
    source: str | PathLike[str]


def read_tokenizer_vocab(folder: str | PathLike[str]) -> TokenizerVocab | None:
    """Return the vocabulary of the tokenizer in `folder`, None if there is no tokenizer.

    Raises
    ------
    ValueError
        If a file is damaged, or the end token is none of the tokens; the message names the file.
    """
    path = Path(folder)
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        return None
    config = _read(path / CONFIG)
    id_by_token = _vocabulary(path, config)
    file, token = path / CONFIG, config.get("eos_token")
    if "added_tokens_decoder" not in config and "eos_token" in (special := _read(path / SPECIAL)):
        file, token = path / SPECIAL, special["eos_token"]
    token = token.get("content") if isinstance(token, dict) else token
    if token is not None and (not isinstance(token, str) or token not in id_by_token):
        raise ValueError(f"{file}: eos_token is {token!r}, which the tokenizer does not have")
    end = None if token is None else id_by_token[token]
    return TokenizerVocab(frozenset(id_by_token.values()), end, file)


def read_end_tokens(folder: str | PathLike[str], vocab_size: int) -> set[int]:
    """Return the end tokens of the generation_config.json in `folder`, an empty set without one.

    Raises
    ------
    ValueError
        If the file is damaged, or one is outside of the vocabulary.
    """
    file = Path(folder) / GENERATION_CONFIG
    return as_token_ids(f"{file}: eos_token_id", _read(file).get("eos_token_id"), vocab_size)


def _read(file: Path) -> dict[str, Any]:
    return read_json_object(file) if file.is_file() else {}


def _vocabulary(path: Path, config: Mapping[str, Any]) -> dict[str, int]:
    """Return the id of every token; where files give a token two ids, tokenizer.json's."""
    id_by_token: dict[str, int] = {}
    for file, tokens in _token_tables(path, config):
        for token, index in tokens:
            if not isinstance(token, str) or type(index) is not int or index < 0:
                raise ValueError(f"{file}: token {shorten(token)} has id {shorten(index)}")
            id_by_token.setdefault(token, index)
    return id_by_token


def _token_tables(path: Path, config: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Yield each file with its (token, id), in the order of their precedence."""
    if (path / TOKENIZER).is_file():
        yield path / TOKENIZER, _tokenizer_tokens(path / TOKENIZER)
    else:
        yield path / VOCABULARY, read_json_object(path / VOCABULARY).items()
        yield path / ADDED, _read(path / ADDED).items()
    try:
        added = [(t["content"], int(i)) for i, t in config.get("added_tokens_decoder", {}).items()]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path / CONFIG}: added_tokens_decoder is no map of tokens") from error
    yield path / CONFIG, added


def _tokenizer_tokens(file: Path) -> list[tuple[str, int]]:
    tokenizer = read_json_object(file)
    try:
        vocabulary, added = tokenizer["model"]["vocab"], tokenizer["added_tokens"]
        if isinstance(vocabulary, list):  # pieces of a unigram model, in the order of their ids
            vocabulary = {piece: index for index, (piece, _) in enumerate(vocabulary)}
        return [*((token["content"], token["id"]) for token in added), *vocabulary.items()]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: no tokens in model.vocab and added_tokens") from error
