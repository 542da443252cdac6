"""The implementations that are compared: this project and transformers, behind one interface.

The tokens to decode are arguments, not sampled, so that every implementation computes the same.
transformers runs its own model with eager attention, the only one that it has for MiMo on a CPU, as
many threads as this project, and the experts implementation that is fastest for each phase.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mimo_v2_flash.cpu.thread_count import thread_count

from .clock import seconds

__all__ = ["FLOAT8", "NATIVE", "Implementation", "Ours", "Transformers", "load_implementation"]

FLOAT8, NATIVE = "float8", "bfloat16"  # folders of the checkpoints
CHUNK = 512  # tokens of a long prompt in one prefill step
BATCHED_CHUNK = 64  # tokens of each prompt in one step, where there are several
LARGE = 1 << 20  # bytes: smaller weights do not count for read bandwidth
EXPERTS_IMPLEMENTATIONS = ("grouped_mm", "eager")  # "batched_mm" is slower by 2 to 10 times


class Implementation(Protocol):
    """A loaded model with one KV cache."""

    def prefill(self, token_BT: np.ndarray, *, room: int = 0) -> np.ndarray:
        """Prefill a new KV cache and return the logits of the last token, [B, vocab].

        The cache has room for `room` more tokens.
        """

    def fill(self, token_T: np.ndarray, *, rows: int, room: int) -> None:
        """Prefill a new KV cache with the same prompt in each of `rows` rows."""

    def decode(self, token_B: np.ndarray) -> np.ndarray:
        """Decode one token per row and return its logits, [B, vocab]."""

    def logits(self, token_BT: np.ndarray) -> np.ndarray:
        """Return the logits of every token."""

    def tune(self, trial: Callable[[], object]) -> str:
        """Warm up with `trial`, keep the setting that is fastest for it, and return its name."""


def load_implementation(name: str, folder: Path) -> Implementation:
    """Return the implementation `name` with the weights in `folder`."""
    return Ours(folder) if name == "ours" else Transformers(folder, name.split("-")[1])


class Ours:
    """The implementation of this project, with FP8 weights as stored."""

    def __init__(self, folder: Path) -> None:
        from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_weights  # noqa: PLC0415

        config = MiMoConfig.from_pretrained(folder / FLOAT8)
        self.model = MiMoV2FlashModel(load_weights(folder / FLOAT8, config), config)
        self.model.max_step = CHUNK
        self.cache: Any = None

    @classmethod
    def at(cls, path: Path, compute: str) -> "Ours":
        """Return the implementation with the checkpoint or GGUF file at `path`."""
        from mimo_v2_flash import load_model  # noqa: PLC0415

        made = cls.__new__(cls)
        made.model, made.cache = load_model(path, max_length=8192, compute=compute), None
        return made

    def prefill(self, token_BT: np.ndarray, *, room: int = 0) -> np.ndarray:
        """Prefill a new KV cache."""
        B, T = token_BT.shape
        self.cache = self.model.new_cache(B, T + room)
        return self._step(token_BT)

    def fill(self, token_T: np.ndarray, *, rows: int, room: int) -> None:
        """Prefill the same prompt in every row, a few tokens of each at a time."""
        self.model.max_step = BATCHED_CHUNK
        self.prefill(np.tile(token_T, (rows, 1)), room=room)
        self.model.max_step = CHUNK

    def decode(self, token_B: np.ndarray) -> np.ndarray:
        """Decode one token per row."""
        return self._step(token_B[:, None])

    def _step(self, token_BT: np.ndarray) -> np.ndarray:
        B, T = token_BT.shape
        position_BT = self.cache.length_B[:, None] + np.arange(T)
        last_B1 = np.full((B, 1), T - 1)
        return self.model.step(token_BT, position_BT, self.cache, logits_at=last_B1)[:, 0]

    def logits(self, token_BT: np.ndarray) -> np.ndarray:
        """Return the logits of every token."""
        return self.model.forward(token_BT)

    def stored(self) -> list[np.ndarray]:
        """Return the large weights of all layers, as memory-mapped."""
        from mimo_v2_flash.execution.pytree import tree_arrays  # noqa: PLC0415

        arrays = tree_arrays(self.model.weights.layers).values()
        return [array for array in arrays if array.nbytes >= LARGE]

    def tune(self, trial: Callable[[], object]) -> str:
        """Warm up; there is no setting to choose."""
        trial()
        return "as it is"


class Transformers:
    """The implementation of transformers, with the same weights in `dtype`."""

    def __init__(self, folder: Path, dtype: str) -> None:
        os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        import torch  # noqa: PLC0415
        from transformers import AutoModelForCausalLM  # noqa: PLC0415
        from transformers.utils import logging  # noqa: PLC0415

        logging.disable_progress_bar()
        torch.set_num_threads(thread_count().number)
        torch.set_grad_enabled(False)
        self.tensor, self.cache = torch.from_numpy, None
        self.model = AutoModelForCausalLM.from_pretrained(
            folder / NATIVE, dtype=dtype, attn_implementation="eager"
        )

    def prefill(self, token_BT: np.ndarray, *, room: int = 0) -> np.ndarray:
        """Prefill a new KV cache, which grows by itself."""
        self.cache = None
        for start in range(0, token_BT.shape[1], CHUNK):
            logits_BV = self._step(token_BT[:, start : start + CHUNK])
        return logits_BV

    def fill(self, token_T: np.ndarray, *, rows: int, room: int) -> None:
        """Prefill the prompt once and repeat its KV cache."""
        self.prefill(token_T[None], room=room)
        self.cache.batch_repeat_interleave(rows)

    def decode(self, token_B: np.ndarray) -> np.ndarray:
        """Decode one token per row."""
        return self._step(token_B[:, None])

    def _step(self, token_BT: np.ndarray) -> np.ndarray:
        output = self.model(
            self.tensor(token_BT), past_key_values=self.cache, use_cache=True, logits_to_keep=1
        )
        self.cache = output.past_key_values
        return output.logits[:, -1].float().numpy()

    def logits(self, token_BT: np.ndarray) -> np.ndarray:
        """Return the logits of every token."""
        return self.model(self.tensor(token_BT)).logits.float().numpy()

    def tune(self, trial: Callable[[], object]) -> str:
        """Keep the experts implementation that is fastest for `trial`."""
        elapsed = {}
        for name in EXPERTS_IMPLEMENTATIONS:
            self.model.set_experts_implementation(name)
            trial()
            elapsed[name] = seconds(trial)
        best = min(elapsed, key=elapsed.__getitem__)
        self.model.set_experts_implementation(best)
        return best
