"""The project and transformers behind one face: read a prompt, then decode what one is told.

Tokens are given, not chosen, so that every contender computes the same. transformers' model is its
own, with eager attention, the only one that it has for MiMo on a CPU, as many threads as there are
cores, and the experts implementation that is fastest for the work at hand.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .clock import seconds

__all__ = ["FLOAT8", "NATIVE", "Contender", "Ours", "Transformers", "contender"]

FLOAT8, NATIVE = "float8", "bfloat16"  # folders of weights
CHUNK = 512  # tokens of a long prompt that pass through the layers at one time
NARROW = 64  # of each of several prompts
LARGE = 1 << 20  # bytes of a weight whose reading takes time
IMPLEMENTATIONS = ("grouped_mm", "eager")  # "batched_mm" copies weights: slower by 2 to 10 times


class Contender(Protocol):
    """One model, loaded, with room for one conversation of some rows."""

    def prefill(self, token_BT: np.ndarray, *, room: int = 0) -> np.ndarray:
        """Forget everything, read a prompt, and return the logits after it, [B, vocab].

        There is room for `room` tokens more.
        """

    def fill(self, token_T: np.ndarray, *, rows: int, room: int) -> None:
        """Forget everything and read one prompt into each of `rows` rows."""

    def decode(self, token_B: np.ndarray) -> np.ndarray:
        """Read one more token per row and return the logits after it, [B, vocab]."""

    def logits(self, token_BT: np.ndarray) -> np.ndarray:
        """Return the logits after every token."""

    def settle(self, trial: Callable[[], object]) -> str:
        """Warm up with `trial`; take the setting that is fastest for it, and return its name."""


def contender(name: str, folder: Path) -> Contender:
    """Return the contender called `name` with the weights in `folder`."""
    return Ours(folder) if name == "ours" else Transformers(folder, name.split("-")[1])


class Ours:
    """The project, with FP8 weights as stored."""

    def __init__(self, folder: Path) -> None:
        from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_weights  # noqa: PLC0415

        config = MiMoConfig.from_pretrained(folder / FLOAT8)
        self.model = MiMoV2FlashModel(load_weights(folder / FLOAT8, config), config)
        self.model.max_step = CHUNK
        self.cache: Any = None

    def prefill(self, token_BT: np.ndarray, *, room: int = 0) -> np.ndarray:
        """Read a prompt."""
        B, T = token_BT.shape
        self.cache = self.model.new_cache(B, T + room)
        return self._step(token_BT)

    def fill(self, token_T: np.ndarray, *, rows: int, room: int) -> None:
        """Read a prompt into every row, a few tokens of each at a time."""
        self.model.max_step = NARROW
        self.prefill(np.tile(token_T, (rows, 1)), room=room)
        self.model.max_step = CHUNK

    def decode(self, token_B: np.ndarray) -> np.ndarray:
        """Read a token per row."""
        return self._step(token_B[:, None])

    def _step(self, token_BT: np.ndarray) -> np.ndarray:
        B, T = token_BT.shape
        position_BT = self.cache.length_B[:, None] + np.arange(T)
        last_B1 = np.full((B, 1), T - 1)
        return self.model.step(token_BT, position_BT, self.cache, logits_at=last_B1)[:, 0]

    def logits(self, token_BT: np.ndarray) -> np.ndarray:
        """Return the logits after every token."""
        return self.model.forward(token_BT)

    def stored(self) -> list[np.ndarray]:
        """Return the large weights of all layers, as they lie in their files."""
        from mimo_v2_flash.execution.pytree import arrays  # noqa: PLC0415

        found = arrays(self.model.weights.layers).values()
        return [array for array in found if array.nbytes >= LARGE]

    def settle(self, trial: Callable[[], object]) -> str:
        """Warm up: there is nothing to choose."""
        trial()
        return "as it is"


class Transformers:
    """transformers, with the same weights in `dtype`."""

    def __init__(self, folder: Path, dtype: str) -> None:
        os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        import torch  # noqa: PLC0415
        from transformers import AutoModelForCausalLM  # noqa: PLC0415
        from transformers.utils import logging  # noqa: PLC0415

        logging.disable_progress_bar()
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.set_grad_enabled(False)
        self.tensor, self.cache = torch.from_numpy, None
        self.model = AutoModelForCausalLM.from_pretrained(
            folder / NATIVE, dtype=dtype, attn_implementation="eager"
        )

    def prefill(self, token_BT: np.ndarray, *, room: int = 0) -> np.ndarray:
        """Read a prompt; the cache grows by itself."""
        self.cache = None
        for start in range(0, token_BT.shape[1], CHUNK):
            logits_BV = self._step(token_BT[:, start : start + CHUNK])
        return logits_BV

    def fill(self, token_T: np.ndarray, *, rows: int, room: int) -> None:
        """Read a prompt once and repeat what is known of it."""
        self.prefill(token_T[None], room=room)
        self.cache.batch_repeat_interleave(rows)

    def decode(self, token_B: np.ndarray) -> np.ndarray:
        """Read a token per row."""
        return self._step(token_B[:, None])

    def _step(self, token_BT: np.ndarray) -> np.ndarray:
        answer = self.model(
            self.tensor(token_BT), past_key_values=self.cache, use_cache=True, logits_to_keep=1
        )
        self.cache = answer.past_key_values
        return answer.logits[:, -1].float().numpy()

    def logits(self, token_BT: np.ndarray) -> np.ndarray:
        """Return the logits after every token."""
        return self.model(self.tensor(token_BT)).logits.float().numpy()

    def settle(self, trial: Callable[[], object]) -> str:
        """Take the experts implementation that `trial` is fastest with."""
        taken = {}
        for name in IMPLEMENTATIONS:
            self.model.set_experts_implementation(name)
            trial()
            taken[name] = seconds(trial)
        best = min(taken, key=taken.__getitem__)
        self.model.set_experts_implementation(best)
        return best
