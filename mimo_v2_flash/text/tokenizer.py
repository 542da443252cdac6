"""The tokenizer of a checkpoint, loaded by transformers, and an incremental detokenizer.

MiMo's tokenizer is Qwen2's byte-level BPE: a token may end within a character. An empty prompt is
`<|endoftext|>`, the token that precedes a text in training.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from mimo_v2_flash.json_object import read_json_object

__all__ = ["END_OF_TEXT", "Detokenizer", "end_of_text", "load_tokenizer", "prompt_tokens", "tokens"]

END_OF_TEXT = "<|endoftext|>"
FILES = ("tokenizer.json", "vocab.json")  # a tokenizer has at least one of them
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
REPLACEMENT_CHARACTER = "\ufffd"  # decoders replace incomplete UTF-8 with it


def load_tokenizer(folder: str | PathLike[str]) -> Any:
    """Return the tokenizer in `folder`, as transformers' AutoTokenizer loads it.

    Raises
    ------
    FileNotFoundError
        If the folder holds no tokenizer.
    ImportError
        If transformers is not installed; the message has the command that installs it.
    ValueError
        If a file of the tokenizer is damaged; it is named, or the folder if only transformers sees
        what is wrong.
    """
    path = Path(folder)
    if not any((path / name).is_file() for name in FILES):
        raise FileNotFoundError(f"{path}: no tokenizer found, expected {' or '.join(FILES)}")
    auto_tokenizer = _auto_tokenizer()
    for file in filter(Path.is_file, (path / name for name in (*FILES, *SETTINGS))):
        read_json_object(file)
    with warnings.catch_warnings(), _named_errors(f"{path}: the tokenizer cannot be loaded"):
        warnings.simplefilter("ignore", FutureWarning)  # about the hub's spelling of config.json
        return auto_tokenizer.from_pretrained(path, local_files_only=True)


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Raise whatever a file of the checkpoint makes a library raise as a ValueError with a name."""
    try:
        yield
    except Exception as error:  # of json, tokenizers, transformers or jinja2
        raise ValueError(f"{name}: {error or type(error).__name__}") from error


def prompt_tokens(tokenizer: Any, prompt: str | Sequence[Mapping[str, str]]) -> list[int]:
    """Return the token ids of a prompt; an empty one is `<|endoftext|>` alone.

    Parameters
    ----------
    tokenizer
        From `load_tokenizer`.
    prompt
        A text to continue, or chat messages ("role", "content") to answer, which the checkpoint's
        chat template turns into a text.

    Raises
    ------
    ValueError
        If the text holds a lone surrogate, or there is no chat template for messages, or it fails.
    """
    if not isinstance(prompt, str):
        if not tokenizer.chat_template:
            raise ValueError(f"{tokenizer.name_or_path}: the tokenizer has no chat template")
        with _named_errors(f"{tokenizer.name_or_path}: the chat template cannot be used"):
            return list(
                tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
            )
    return tokens(tokenizer, prompt, add_special_tokens=True) or [end_of_text(tokenizer)]


def tokens(tokenizer: Any, text: str, *, add_special_tokens: bool = False) -> list[int]:
    """Return the token ids of a text of any length; ValueError if it is not Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start} of the text is a lone surrogate") from error
    with _named_errors(f"{tokenizer.name_or_path}: the tokenizer cannot be used"):
        encoded = tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)
    return list(encoded["input_ids"])


def end_of_text(tokenizer: Any) -> int:
    """Return the id of `<|endoftext|>`; ValueError if the tokenizer has no such token."""
    try:
        return int(tokenizer.added_tokens_encoder[END_OF_TEXT])
    except KeyError:
        raise ValueError(f"{tokenizer.name_or_path}: the tokenizer has no {END_OF_TEXT}") from None


class Detokenizer:
    """An incremental detokenizer that emits whole characters only.

    The concatenated output is the text that the tokenizer decodes from all tokens at once, without
    special tokens. It holds U+FFFD only for bytes that no further token can complete.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._pending: list[int] = []  # tokens since the text last ended with a whole character
        self._emitted = 0  # characters of the pending tokens that have been returned

    def push(self, token: int) -> str:
        """Add a token and return the new text that no further token can change; it may be empty."""
        self._pending.append(token)
        text = self._text()
        complete = text[:-1] if text.endswith(REPLACEMENT_CHARACTER) else text
        piece = complete[self._emitted :]
        self._emitted += len(piece)
        if complete == text:
            self._pending, self._emitted = [], 0
        return piece

    def end(self) -> str:
        """Return the remaining text at the end of the tokens, and reset."""
        piece = self._text()[self._emitted :]
        self._pending, self._emitted = [], 0
        return piece

    def _text(self) -> str:
        return str(self._tokenizer.decode(self._pending, skip_special_tokens=True))


def _auto_tokenizer() -> Any:
    logger = logging.getLogger("transformers")
    logger.addFilter(_not_about_torch)
    try:
        from transformers import AutoTokenizer  # noqa: PLC0415  optional, and slow to import
    except ImportError as error:
        raise ImportError(
            "text needs transformers, which is not installed: "
            'pip install "mimo-v2-flash[text]", or in a checkout: pip install -e ".[text]"'
        ) from error
    finally:
        logger.removeFilter(_not_about_torch)
    return AutoTokenizer


def _not_about_torch(record: logging.LogRecord) -> bool:
    return "PyTorch was not found" not in record.getMessage()  # tokenizers do not need it
