"""All programs of a deployment, and how often each step calls them: the real model, rehearsed.

Nothing is computed and no weights are needed: a config, a plan and sizes say it all.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.execution.program_recorder import ProgramRecorder, RecordedProgram, meta_arrays
from mimo_v2_flash.execution.pytree import tree_arrays
from mimo_v2_flash.kv_cache import MAX_DRAFT_TOKENS, HybridCache
from mimo_v2_flash.layers.execution_mode import EXECUTION_MODES
from mimo_v2_flash.model import MiMoV2FlashModel
from mimo_v2_flash.parallel.fake_group import FakeGroup
from mimo_v2_flash.parallel_config import ShardSpec
from mimo_v2_flash.weights.device_layout import to_device_layout
from mimo_v2_flash.weights.meta import meta_weights, one_of_each_layer
from mimo_v2_flash.weights.params import ModelWeights
from mimo_v2_flash.weights.shard_weights import shard_weights

from .deployment import Deployment
from .program_names import unique_names

__all__ = ["Deployment", "StepCalls", "StepPrograms", "step_programs"]


class StepCalls(NamedTuple):
    """A step, and what it calls.

    Attributes
    ----------
    tokens
        Of each sequence: a chunk, one, or one and the longest draft.
    filled
        Slots of full layers that are looked at: a bucket.
    calls
        How often each program is called where nothing overflows, by its name.
    """

    tokens: int
    kv_length: int
    calls: dict[str, int]


class StepPrograms(NamedTuple):
    """Every program by a name for people, and every step.

    Programs that no step calls are those of larger buckets, for what overflows.

    Attributes
    ----------
    kinds
        Of each program's inputs, by their paths: "weights", "cache" or "activations".
    """

    programs: dict[str, RecordedProgram]
    steps: tuple[StepCalls, ...]
    kinds: dict[str, dict[str, str]]


def step_programs(deployment: Deployment) -> StepPrograms:
    """Return what `deployment` needs: shorter steps last, each with fewer filled slots first.

    Raises
    ------
    ValueError
        If there cannot be programs for it, or the compiler would refuse one; it is named.
    ImportError
        If nkipy is not installed.
    """
    deployment.check()
    recorder = ProgramRecorder()
    model = _model(deployment, recorder)
    run = partial(_run, model, deployment, recorder)
    sizes = list(_sizes(deployment))
    called = [run(tokens, start) for tokens, _, start in sizes]
    names = unique_names(recorder.programs)
    steps = (
        StepCalls(tokens, kv_length, {names[number]: count for number, count in calls.items()})
        for (tokens, kv_length, _), calls in zip(sizes, called, strict=True)
    )
    programs = dict(zip(names, recorder.programs, strict=True))
    weights = set(map(id, tree_arrays(model.weights).values()))
    kinds = {name: _kinds(program, weights) for name, program in programs.items()}
    return StepPrograms(programs, tuple(steps), kinds)


def _model(deployment: Deployment, recorder: ProgramRecorder) -> MiMoV2FlashModel:
    config, plan = deployment.config, deployment.plan
    return MiMoV2FlashModel(
        _weights(config, deployment.weight_dtype, plan.shard_spec(0)),
        config,
        max_step=deployment.chunk,
        backend=recorder,
        group=FakeGroup(plan.world_size),
        plan=plan,
        dtype=deployment.activation_dtype,
    )


def _weights(config: MiMoConfig, dtype: str, shard_spec: ShardSpec) -> ModelWeights:
    """Return a rank's weights, without memory; layers of a kind are one."""
    few, kind_of_layer = one_of_each_layer(config)
    weights = meta_arrays(
        to_device_layout(shard_weights(meta_weights(few, dtype), few, shard_spec))
    )
    return weights._replace(layers=tuple(weights.layers[kind] for kind in kind_of_layer))


def _sizes(deployment: Deployment) -> Iterator[tuple[int, int, int]]:
    """Yield every step's tokens, its filled slots, and the last position where it may start."""
    context, bucket = deployment.context, EXECUTION_MODES["static"].kv_length
    for tokens in dict.fromkeys((deployment.chunk, 1 + MAX_DRAFT_TOKENS, 1)):
        last = context - tokens
        if last >= 0 and tokens <= deployment.chunk:
            starts = sorted({0, last, *(1 << n for n in range(last.bit_length()))})
            found = {bucket(start, context): start for start in starts}
            yield from ((tokens, kv_length, start) for kv_length, start in found.items())


def _run(
    model: MiMoV2FlashModel,
    deployment: Deployment,
    recorder: ProgramRecorder,
    tokens: int,
    start: int,
) -> Counter[int]:
    """Return the programs that a step calls, by number.

    Before, it is run as if all overflowed, and again for logits, which are sampled from.
    """
    token_BT = np.zeros((deployment.batch_size, tokens), np.int32)
    position_BT = np.broadcast_to(start + np.arange(tokens, dtype=np.int32), token_BT.shape)
    wanted = tokens if tokens <= 1 + MAX_DRAFT_TOKENS else 1
    last_Bn = np.broadcast_to(np.arange(tokens)[-wanted:], (len(token_BT), wanted))
    for recorder.value, ask in (
        (1, partial(model.step, logits_at=last_Bn[:, -1:])),  # a short prompt, or its end
        (1, partial(model.greedy, at=last_Bn[:, -1:])),
        (1, partial(model.step, logits_at=last_Bn)),
        (0, partial(model.greedy, at=last_Bn)),
    ):
        recorder.calls.clear()
        ask(token_BT, position_BT, _cache(model, deployment, start))
    return recorder.calls.copy()


def _kinds(program: RecordedProgram, weights: set[int]) -> dict[str, str]:
    """Return what each input of a program is; weights are known by their `id`."""
    return {
        path: "weights"
        if id(array) in weights
        else ("cache" if path.startswith("cache.") else "activations")
        for path, array in tree_arrays(program.arguments).items()
    }


def _cache(model: MiMoV2FlashModel, deployment: Deployment, start: int) -> HybridCache:
    """Return a cache whose sequences have `start` tokens."""
    cache = model.new_cache(deployment.batch_size, deployment.context, deployment.cache_dtype)
    oldest = max(0, start - cache.window + 1)
    held = np.full_like(cache.length_B, start), np.full_like(cache.oldest_B, oldest)
    return replace(cache, length_B=held[0], oldest_B=held[1])
