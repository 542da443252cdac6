"""The tokenizer of a checkpoint, loaded by transformers, and an incremental detokenizer.

MiMo's tokenizer is Qwen2's byte-level BPE: a token may end within a character. `<|endoftext|>`
precedes a text in training.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any

from mimo_v2_flash.checkpoint.source import SIDE_FILES
from mimo_v2_flash.generation.tokenizer_vocab import TOKENIZER_FILES, read_tokenizer_vocab
from mimo_v2_flash.gguf_files import as_folder

__all__ = [
    "END_OF_TEXT",
    "Detokenizer",
    "end_of_text",
    "load_tokenizer",
    "named_errors",
    "plain_tokens",
    "tokens",
]

END_OF_TEXT = "<|endoftext|>"
LONGEST = 4  # bytes of a character in UTF-8
REPLACEMENT_CHARACTER = "\ufffd"  # decoders replace incomplete UTF-8 with it


def load_tokenizer(folder: str | PathLike[str]) -> Any:
    """Return the tokenizer in `folder`, as transformers' AutoTokenizer loads it.

    Raises
    ------
    FileNotFoundError
        If the folder holds no tokenizer.
    ValueError
        If a file of the tokenizer is damaged, or transformers does not take it; it is named.
    ImportError
        If transformers is not installed; the message has the command that installs it.
    """
    path = as_folder(folder)
    if read_tokenizer_vocab(path) is None:
        needed = " or ".join(TOKENIZER_FILES)
        raise FileNotFoundError(f"{path}: no tokenizer found, expected {needed}")
    auto_tokenizer = _auto_tokenizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about the hub's spelling of config.json
        files = ", ".join(name for name in SIDE_FILES if (path / name).is_file())
        with named_errors(f"{path}: no tokenizer in {files}"):
            return auto_tokenizer.from_pretrained(path, local_files_only=True)


@contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Raise what the content of a file makes a library raise as one line that begins with `name`.

    transformers, tokenizers and jinja2 raise exceptions of any type, and templates are programs.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{name}: {line}") from error


def tokens(tokenizer: Any, text: str, *, add_special_tokens: bool = False) -> list[int]:
    """Return the token ids of a text of any length; ValueError if it is not Unicode.

    Parameters
    ----------
    tokenizer : tokenizer
        A tokenizer of `load_tokenizer`.
    text : str
        The text.
    add_special_tokens : bool
        Whether the tokenizer adds its own, such as one for the beginning.
    """
    _check_unicode(text)
    with named_errors(f"{tokenizer.name_or_path}: the tokenizer fails"):
        encoded = tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)
    return list(encoded["input_ids"])


def plain_tokens(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a text in which no special or other added token is read."""
    _check_unicode(text)
    backend = tokenizer.backend_tokenizer
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    words = backend.pre_tokenizer.pre_tokenize_str(text)
    return [token.id for word, _ in words for token in backend.model.tokenize(word)]


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start} of the text is a lone surrogate") from error


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
        self._backend = tokenizer.backend_tokenizer  # a fifteenth of the time of `decode` around it
        self._pending: list[int] = []  # the last tokens, from the first byte that is not certain on
        self._emitted = 0  # characters of the pending tokens that have been returned

    @property
    def is_holding(self) -> bool:
        """Whether the last token ends within a character."""
        return bool(self._pending)

    def push(self, token: int) -> str:
        """Add a token and return the new text that no further token can change; it may be empty."""
        self._pending.append(token)
        text = self._text(self._pending)
        complete = text[:-1] if text.endswith(REPLACEMENT_CHARACTER) else text
        piece = complete[self._emitted :]
        self._emitted += len(piece)
        if complete == text:
            self._pending, self._emitted = [], 0
        elif len(self._pending) > LONGEST:
            self._drop_certain()
        return piece

    def end(self) -> str:
        """Return the remaining text at the end of the tokens, and reset."""
        piece = self._text(self._pending)[self._emitted :]
        self._pending, self._emitted = [], 0
        return piece

    def copy(self) -> "Detokenizer":
        """Return an independent detokenizer in the same state."""
        other = object.__new__(Detokenizer)
        other._backend = self._backend
        other._pending, other._emitted = [*self._pending], self._emitted
        return other

    def _drop_certain(self) -> None:
        """Keep the tokens of the last `LONGEST` bytes: what they end in does not depend on others.

        Each token that is text has a byte at least. The text ends with the one character that may
        still change.
        """
        self._pending = [token for token in self._pending if self._text([token])][-LONGEST:]
        self._emitted = len(self._text(self._pending)) - 1

    def _text(self, token_T: Sequence[int]) -> str:
        return str(self._backend.decode(token_T, skip_special_tokens=True))


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
