"""A model that answers a chat as a script says, and can be stopped in the middle of an answer."""

import threading
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from mimo_v2_flash.text.chat_template import TURN
from mimo_v2_flash.text.tokenizer import tokens
from tests.support.engine_model import HistoryModel

__all__ = ["ScriptedModel"]

TURN_END = "<|im_end|>"


class ScriptedModel(HistoryModel):
    """A model whose answer is `script[message]` for the last message of a user, else that message.

    Parameters
    ----------
    tokenizer
        Of the shipped model.
    script
        Answers, as the model would write them after the generation prompt.
    max_length
        Maximum number of tokens of a sequence.

    Attributes
    ----------
    pause_after
        The number of an answer's tokens after which steps wait for `resumed`.
    resumed
        Set while steps do not wait.
    """

    def __init__(self, tokenizer: Any, script: Mapping[str, str], max_length: int = 256) -> None:
        self._turn, end = tokenizer.convert_tokens_to_ids([TURN, TURN_END])
        super().__init__(len(tokenizer), max_length, eos=(end,))
        self._tokenizer, self._script = tokenizer, script
        self._headers = [
            tokens(tokenizer, f"{TURN}assistant\n{thinking}")
            for thinking in ("<think></think>", "")
        ]
        self.pause_after, self.resumed = 0, threading.Event()
        self.resumed.set()

    def _logits(self, seen: list[int]) -> np.ndarray:
        start = len(seen) - seen[::-1].index(self._turn) - 1
        header = next(each for each in self._headers if seen[start:][: len(each)] == each)
        count = len(seen) - start - len(header)
        if count >= self.pause_after:
            assert self.resumed.wait(30)
        answer = self._answer(tuple(seen[:start]))
        return np.where(np.arange(self.config.vocab_size) == answer[count], 9.0, -9.0)

    @cache  # noqa: B019 (a model lives as long as its server)
    def _answer(self, prompt: tuple[int, ...]) -> list[int]:
        """Return the tokens of the answer to the last message of a prompt."""
        message = self._tokenizer.decode(prompt).rpartition(f"{TURN}user\n")[2]
        message = message.removesuffix(TURN_END)
        return tokens(self._tokenizer, f"{self._script.get(message, message)}{TURN_END}")
