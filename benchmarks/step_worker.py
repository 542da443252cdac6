"""One process of `benchmarks.steps`: times cases that it reads from standard input, one per line.

It uses the package of the folder in PYTHONPATH, by names that any version has.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_weights

PROMPT, DECODING = 512, 31


class Cases:
    """The cases of the benchmark, as functions that are timed."""

    def __init__(self, wide: Path, tiny: Path) -> None:
        self._models = {name: _load(folder) for name, folder in (("wide", wide), ("tiny", tiny))}
        self._state: dict[str, Callable[[], Any]] = {}

    def run(self, case: str) -> float:
        """Return the seconds of one run of `case`; its caches are filled before the first."""
        if case not in self._state:
            kind, name, *sizes = case.split()
            prepare = getattr(self, f"_{kind}")
            self._state[case] = prepare(self._models[name], *map(int, sizes))
            self._state[case]()
        start = time.perf_counter()
        self._state[case]()
        return time.perf_counter() - start

    def _decode(self, model: MiMoV2FlashModel, rows: int, steps: int) -> Callable[[], Any]:
        """Decode `steps` tokens of `rows` sequences after prompts of 64 tokens."""
        cache, end = model.new_cache(rows, 128), 64
        model.step(*_tokens(rows, range(end)), cache, logits_at=[[0]] * rows)

        def decode() -> None:
            for position in range(end, end + steps):
                model.greedy(*_tokens(rows, range(position, position + 1)), cache)
            cache.length_B[:] = end

        return decode

    def _prompt(self, model: MiMoV2FlashModel, length: int) -> Callable[[], Any]:
        cache, step = model.new_cache(1, length), _tokens(1, range(length))
        return lambda: model.greedy(*step, cache, at=[[length - 1]])

    def _generate(self, model: MiMoV2FlashModel, length: int, tokens: int) -> Callable[[], Any]:
        """Generate `tokens` tokens after one prompt of `length`, whatever they are."""
        prompt = _tokens(1, range(length))[0]
        return lambda: model.generate(
            prompt, max_new_tokens=tokens, eos_token_id=[], temperature=0.0
        )

    def _mixed(self, model: MiMoV2FlashModel, length: int) -> Callable[[], Any]:
        """Prefill one row while the others decode a token each, at a length of 64."""
        rows, end = DECODING + 1, 64
        cache = model.new_cache(rows, length)
        model.step(*_tokens(rows, range(end)), cache, logits_at=[[0]] * rows)
        token_BT, position_BT = np.zeros((rows, length), int), np.full((rows, length), -1)
        position_BT[0], position_BT[1:, 0] = np.arange(length), end
        at = np.zeros((rows, 1), int)
        at[0] = length - 1

        def step() -> None:
            model.greedy(token_BT, position_BT, cache, at=at)
            cache.length_B[1:] = end

        return step


def _load(folder: Path) -> MiMoV2FlashModel:
    config = MiMoConfig.from_pretrained(folder)
    return MiMoV2FlashModel(load_weights(folder, config), config, max_step=PROMPT + DECODING)


def _tokens(rows: int, positions: range) -> tuple[np.ndarray, np.ndarray]:
    position_BT = np.tile(np.array(positions), (rows, 1))
    return np.random.default_rng(positions.start).integers(0, 4096, position_BT.shape), position_BT


def main() -> None:
    """Time each case that is asked for."""
    cases = Cases(*map(Path, sys.argv[1:]))
    for line in sys.stdin:
        sys.stdout.write(f"{cases.run(line.strip())!r}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
