"""Stop strings over token borders: text as tokens come, up to the first stop string."""

from collections.abc import Sequence
from typing import Any

from .tokenizer import Detokenizer

__all__ = ["StopDetokenizer"]

STANDIN = 0xD800  # lone surrogates stand for tokens: no text has them


class StopDetokenizer:
    """An incremental detokenizer that ends before a stop string and keeps some tokens apart.

    The stop string that ends first counts, of several that end together the longest. Text that may
    begin a stop string is held back until the next tokens say.

    Parameters
    ----------
    tokenizer
        From `load_tokenizer`.
    stop
        Stop strings. Added tokens that they name, such as `<|im_end|>`, are recognised by their
        ids, and no other stop string lasts over such a token.
    names
        Added tokens that the text holds as their `standins`, which no other text can be; other
        added tokens are the text that the tokenizer decodes, special ones none.
    min_tokens
        A stop string counts if a token after so many completes it, as in vLLM.

    Attributes
    ----------
    stop_reason
        The stop string that ended the text; None while it goes on.
    standins
        The character that stands for an added token, by the token's name.

    Raises
    ------
    ValueError
        If a stop string is empty or no text.

    Examples
    --------
    >>> from mimo_v2_flash.text.tokenizer import load_tokenizer, tokens
    >>> tokenizer = load_tokenizer("examples/mimo-tiny")
    >>> text = StopDetokenizer(tokenizer, ["list of"])
    >>> "".join(map(text.push, tokens(tokenizer, "a list of names"))), text.stop_reason
    ('a ', 'list of')
    """

    def __init__(
        self,
        tokenizer: Any,
        stop: Sequence[str] = (),
        names: Sequence[str] = (),
        min_tokens: int = 0,
    ) -> None:
        for each in stop:
            if not each or not isinstance(each, str):
                raise ValueError(f"a stop string is {each!r}, expected is a text of a character")
        ids = tokenizer.added_tokens_encoder
        self.standins = {name: chr(STANDIN + index) for index, name in enumerate(ids)}
        self._standin_of = {ids[name]: standin for name, standin in self.standins.items()}
        self._shown = {
            ord(standin): tokenizer.backend_tokenizer.decode([ids[name]], skip_special_tokens=True)
            for name, standin in self.standins.items()
            if name not in names
        }
        self._stops = {self._spell(each): each for each in stop} | {each: each for each in stop}
        self._detokenizer, self._held = Detokenizer(tokenizer), ""
        self._tokens, self._min_tokens = 0, min_tokens
        self.stop_reason: str | None = None

    def _spell(self, stop: str) -> str:
        """Return a stop string with stand-ins for the tokens that it names."""
        for name in sorted(self.standins, key=len, reverse=True):
            stop = stop.replace(name, self.standins[name])
        return stop

    @property
    def is_holding(self) -> bool:
        """Whether tokens have come whose text is not certain."""
        return bool(self._held) or self._detokenizer.is_holding

    def push(self, token: int) -> str:
        """Add a token and return the new text that no further token can change; it may be empty."""
        self._tokens += 1
        standin = self._standin_of.get(token)
        if standin is None:
            return self._text(self._detokenizer.push(token))
        return self._text(self._detokenizer.end() + standin)

    def end(self) -> str:
        """Return the remaining text at the end of the tokens."""
        text = self._text(self._detokenizer.end()) + self._held.translate(self._shown)
        self._held = ""
        return text

    def copy(self) -> "StopDetokenizer":
        """Return an independent detokenizer in the same state."""
        other = object.__new__(StopDetokenizer)
        vars(other).update(vars(self), _detokenizer=self._detokenizer.copy())
        return other

    def _text(self, piece: str) -> str:
        """Return what is certain of the text that is held and of `piece`."""
        if not self._stops:
            return piece.translate(self._shown)
        if self.stop_reason is not None:
            return ""
        text = self._held + piece
        ends = []
        if self._tokens > self._min_tokens:
            new = len(self._held) + 1  # where a stop string may end; earlier ones were too early
            begins = {stop: text.find(stop, max(0, new - len(stop))) for stop in self._stops}
            ends = [(at + len(stop), at, stop) for stop, at in begins.items() if at >= 0]
        if ends:
            _, at, stop = min(ends)
            self._held, self.stop_reason = "", self._stops[stop]
        else:
            at = min((_beginning(text, stop) for stop in self._stops), default=len(text))
            self._held = text[at:]
        return text[:at].translate(self._shown)


def _beginning(text: str, stop: str) -> int:
    """Return where the end of a text begins that a stop string may go on from."""
    sizes = range(min(len(stop) - 1, len(text)), 0, -1)
    return len(text) - next((size for size in sizes if text.endswith(stop[:size])), 0)
