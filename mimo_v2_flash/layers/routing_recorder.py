"""A backend that records which experts each token chooses in each call of a layer."""

import io
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from mimo_v2_flash.checkpoint.params import ModelWeights, MoEWeights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.execution import Backend
from mimo_v2_flash.expert_store.expert_record import record_bytes
from mimo_v2_flash.expert_store.routing_trace import RoutingHeader, write_call
from mimo_v2_flash.parallel_config import UNSHARDED

from .decoder import DecoderLayer
from .eager_attention import FEW_TOKENS
from .embedding import embed
from .feed_forward import MixtureOfExperts
from .forward_batch import SequenceRun

__all__ = ["RoutingRecorder"]


class RoutingRecorder:
    """A backend that computes as another does, and writes the routing of its model to a file.

    Parameters
    ----------
    backend
        The eager backend that computes.
    path
        The file, which is replaced.
    model
        The model's name.
    prompt_sha256, seed
        What is known of the prompt and of sampling.

    Raises
    ------
    ValueError
        If the backend compiles programs; later, if the model is a rank's part.
    """

    def __init__(
        self,
        backend: Backend,
        path: Path,
        model: str,
        prompt_sha256: str | None = None,
        seed: int | None = None,
    ) -> None:
        if backend.execution_mode != "eager":
            raise ValueError("record_routing is for backend numpy")
        self.execution_mode, self._backend = backend.execution_mode, backend
        self._about, self._path = (model, prompt_sha256, seed), path
        self._file: TextIO = io.StringIO()
        self._lock, self._pass = threading.Lock(), threading.local()

    def to_device(self, tree: Any) -> Any:
        """Return `tree`; of a model's weights, write the header."""
        if isinstance(tree, ModelWeights):
            self._write_header(tree)
        return self._backend.to_device(tree)

    def _write_header(self, weights: ModelWeights) -> None:
        if weights.shard_spec != UNSHARDED:
            raise ValueError("record_routing is for one rank: others have experts of their own")
        mixtures = {
            number: layer.feed_forward.experts
            for number, layer in enumerate(weights.layers)
            if isinstance(layer.feed_forward, MoEWeights)
        }
        sizes = [list(map(record_bytes, experts)) for experts in mixtures.values()]
        mimo = MiMoConfig()
        shape = len(weights.layers), weights.embedding_VD.shape[1], len(weights.expert_ids)
        is_mimo = shape == (mimo.num_hidden_layers, mimo.hidden_size, mimo.n_routed_experts)
        self._file = self._path.open("w", encoding="utf-8", buffering=1)  # a line at a time
        weakref.finalize(self, self._file.close)
        RoutingHeader(*self._about, is_mimo, list(mixtures), sizes).write(self._file)

    def compile(
        self, function: Callable[..., Any], *, donate: str | None = None
    ) -> Callable[..., Any]:
        """Return the program of the backend; that of a decoder layer records its routing."""
        if isinstance(function, DecoderLayer):
            function = self._recorded(function)
        program = self._backend.compile(function, donate=donate)

        def counted(*args: Any, **kwargs: Any) -> Any:
            if function is embed:
                self._pass.layer = -1
            elif isinstance(function, DecoderLayer):
                self._pass.layer += 1
                self._pass.is_decode = all(map(_is_decode, args[1].runs))
            return program(*args, **kwargs)

        return counted

    def _recorded(self, layer: DecoderLayer) -> DecoderLayer:
        block = layer.feed_forward_block
        mixture = block.feed_forward
        if not isinstance(mixture, MixtureOfExperts):
            return layer
        expert_fn = mixture.expert_fn

        def record(x_ND: Any, weight_NA: Any, expert_NA: Any, experts: Any, **options: Any) -> Any:
            with self._lock:
                is_decode = self._pass.is_decode
                write_call(self._file, self._pass.layer, is_decode, np.asarray(expert_NA))
            return expert_fn(x_ND, weight_NA, expert_NA, experts, **options)

        return replace(
            layer,
            feed_forward_block=replace(block, feed_forward=replace(mixture, expert_fn=record)),
        )


def _is_decode(run: SequenceRun) -> bool:
    """Return whether the tokens of a run are decoded ones: few, after others."""
    return run.tokens <= FEW_TOKENS and run.kv_length > 0
