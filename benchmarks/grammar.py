"""A grammar's share of a step at MiMo's vocabulary, of eight rows, for `benchmarks.serving`.

The step is one of three layers of MiMo-V2-Flash at true widths with 32 experts (`made_weights`),
and a head of MiMo's 152,576 rows; MiMo itself has 48 layers. No tokenizer of MiMo is needed: to
those of mimo-tiny tokens are added that are drawn, two of its own or characters of other scripts.
"""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from tokenizers import Tokenizer, pre_tokenizers

from mimo_v2_flash import MiMoV2FlashModel, load_weights
from mimo_v2_flash.engine import Engine, SamplingParams, sampler
from mimo_v2_flash.serving.grammar import GrammarCompiler

from .made_weights import model_config, write_float8
from .steps import ROOT

__all__ = ["GrammarCase"]

ROWS, PROMPT, NEW = 8, 32, 32
VOCAB_SIZE, TOKENS = 152_576, 151_669  # MiMo's rows, and the tokens that its tokenizer has
END = 2  # <|im_end|> of mimo-tiny
SCRIPTS = "\u0400\u0500", "\u0590\u0600", "\u3040\u3100", "\u4e00\u9fa5", "\uac00\ud7a4"
SCHEMA = '{"type": "array"}'  # of any JSON


class GrammarCase:
    """A model of MiMo's vocabulary whose answers are JSON."""

    def __init__(self) -> None:
        config = replace(model_config(quick=False), eos_token_id=END)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "wide"
            write_float8(folder, config)
            weights = load_weights(folder, config)
            shape = VOCAB_SIZE, config.hidden_size
            head = {
                field: np.resize(getattr(weights, field), shape)
                for field in ("embedding_VD", "w_logits_VD")
            }
            config = replace(config, vocab_size=VOCAB_SIZE)
            self._model = MiMoV2FlashModel(weights._replace(**head), config)
        tokenizer = SimpleNamespace(backend_tokenizer=drawn_tokenizer())
        self._grammars = GrammarCompiler(tokenizer, VOCAB_SIZE, {END})

    def measure(self) -> tuple[float, float]:
        """Return the seconds of a step that grammars take: of all rows, and of all of the step."""
        matcher = self._grammars.compile("json_schema", SCHEMA, "schema")
        params = SamplingParams(max_tokens=NEW, temperature=1.0, seed=1, ignore_eos=True)
        timed, process = Timer(), sampler.process_logits
        sampler.process_logits = timed(process)  # it applies the masks
        try:
            with Engine(self._model, ROWS, PROMPT + NEW, prefix_cache=0) as engine:
                for row in range(ROWS):
                    constraint = self._grammars.constraint(matcher.deep_copy(), None)
                    prompt = np.random.default_rng(row).integers(9, TOKENS, PROMPT).tolist()
                    engine.submit(prompt, params, constraint=TimedConstraint(constraint, timed))
                engine.step()  # the prompts
                timed.seconds, steps, start = 0.0, 0, time.perf_counter()
                while not any(event.finish_reason for event in engine.step()):
                    steps += 1
                return timed.seconds / steps, (time.perf_counter() - start) / steps
        finally:
            sampler.process_logits = process


class Timer:
    """What adds up the seconds of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, whose calls are timed."""

        def timed(*args: Any) -> Any:
            start = time.perf_counter()
            result = function(*args)
            self.seconds += time.perf_counter() - start
            return result

        return timed


class TimedConstraint:
    """A constraint whose masks and tokens are timed."""

    def __init__(self, constraint: Any, timer: Timer) -> None:
        self._constraint, self._timer = constraint, timer
        self.mask, self.accept = timer(constraint.mask), timer(constraint.accept)
        self.rollback = constraint.rollback

    def copy(self) -> "TimedConstraint":
        """Return a constraint in the same state."""
        return TimedConstraint(self._constraint.copy(), self._timer)


def drawn_tokenizer() -> Tokenizer:
    """Return mimo-tiny's tokenizer with as many tokens as MiMo's has."""
    random = np.random.default_rng(0)
    content = json.loads((ROOT / "examples" / "mimo-tiny" / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    known = [token for token in vocab if vocab[token] >= 9]
    pair_N2 = random.integers(len(known), size=(TOKENS, 2)).tolist()
    words = [known[first] + known[second] for first, second in pair_N2]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for first, last in SCRIPTS:
        code_N3 = random.integers(ord(first), ord(last), (TOKENS // 8, 3)).tolist()
        texts = ["".join(map(chr, codes[: 1 + index % 3])) for index, codes in enumerate(code_N3)]
        words += [byte_level.pre_tokenize_str(text)[0][0] for text in texts]
    random.shuffle(words)
    for word in dict.fromkeys(words):
        if len(vocab) < TOKENS:
            vocab.setdefault(word, len(vocab))
    return Tokenizer.from_str(json.dumps(content))
