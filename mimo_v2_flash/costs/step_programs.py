"""All programs of a deployment, and how often each step calls them, from a dry run of the model.

The dry run records and traces programs but computes nothing, so it needs no weights: config,
parallel sizes and deployment sizes determine every program.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.checkpoint.subset import shard_weights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.execution.program_recorder import ProgramRecorder, RecordedProgram, meta_arrays
from mimo_v2_flash.execution.pytree import tree_arrays
from mimo_v2_flash.kv_cache import HybridCache
from mimo_v2_flash.kv_slots import MAX_DRAFT_TOKENS
from mimo_v2_flash.layers.device_layout import to_device_layout
from mimo_v2_flash.layers.execution_mode import EXECUTION_MODES
from mimo_v2_flash.layers.forward_batch import Step
from mimo_v2_flash.model import MiMoV2FlashModel
from mimo_v2_flash.parallel.fake_group import FakeGroup
from mimo_v2_flash.parallel_config import ShardSpec

from .deployment import Deployment
from .meta import meta_weights, one_of_each_layer
from .program_names import unique_names

__all__ = [
    "Deployment",
    "StepCalls",
    "StepPrograms",
    "StepSize",
    "decode_sizes",
    "step_programs",
    "step_sizes",
]


class StepCalls(NamedTuple):
    """The program calls of one step.

    Attributes
    ----------
    tokens
        Tokens of each sequence: a chunk, one, or one and the longest draft.
    kv_length
        Cache slots that full-attention layers read, rounded up to a bucket.
    calls
        How often each program is called if no expert capacity overflows, by name.
    """

    tokens: int
    kv_length: int
    calls: dict[str, int]


class StepPrograms(NamedTuple):
    """All programs of a deployment by readable name, and all its steps.

    Programs that no step calls are for larger capacities after an overflow, and for logits.

    Attributes
    ----------
    kinds
        "weights", "cache" or "activations" for each input of each program, by the input's path.
    drafting
        What MTP heads call between two steps, at the most tokens; None without drafts.
    """

    programs: dict[str, RecordedProgram]
    steps: tuple[StepCalls, ...]
    kinds: dict[str, dict[str, str]]
    drafting: StepCalls | None = None


class StepSize(NamedTuple):
    """Tokens and KV length of a step, and the last position at which it may start."""

    tokens: int
    kv_length: int
    start: int


def step_programs(
    deployment: Deployment, sizes: Callable[[Deployment], Iterable[StepSize]] | None = None
) -> StepPrograms:
    """Return all programs and steps of `deployment`, or those of the steps that `sizes` gives.

    Steps are sorted by decreasing tokens, then by increasing KV length.

    Raises
    ------
    ValueError
        If the deployment is impossible, or the compiler would refuse a program; it is named.
    ImportError
        If nkipy is not installed.
    """
    deployment.check()
    recorder = ProgramRecorder()
    model = _model(deployment, recorder)
    steps_of = list((sizes or step_sizes)(deployment))
    called = [_run(model, deployment, recorder, size.tokens, size.start) for size in steps_of]
    drafts = _draft(model, deployment, recorder)
    _cache(model, deployment, 1).copy_sequence(0, 0)  # records the programs that copy tokens
    names = unique_names(recorder.programs, deployment.local_rows)
    steps = (
        StepCalls(tokens, kv_length, {names[number]: count for number, count in calls.items()})
        for (tokens, kv_length, _), calls in zip(steps_of, called, strict=True)
    )
    programs = dict(zip(names, recorder.programs, strict=True))
    weights = set(map(id, tree_arrays(model.weights).values()))
    kinds = {name: _kinds(program, weights) for name, program in programs.items()}
    drafting = None
    if drafts:
        calls = {names[number]: count for number, count in drafts.items()}
        drafting = StepCalls(2 * deployment.draft_tokens, deployment.config.sliding_window, calls)
    return StepPrograms(programs, tuple(steps), kinds, drafting)


def step_sizes(deployment: Deployment) -> Iterator[StepSize]:
    """Yield the sizes of every step: a chunk, one token with drafts, one; at every KV length."""
    context, bucket = deployment.context, EXECUTION_MODES["static"].kv_length
    for tokens in dict.fromkeys((deployment.chunk, 1 + MAX_DRAFT_TOKENS, 1)):
        last = context - tokens
        if last >= 0 and tokens <= deployment.chunk:
            starts = sorted({0, last, *(1 << n for n in range(last.bit_length()))})
            start_of_bucket = {bucket(start, context): start for start in starts}
            for kv_length, start in start_of_bucket.items():
                yield StepSize(tokens, kv_length, start)


def decode_sizes(deployment: Deployment) -> list[StepSize]:
    """Return the longest step of one token, before it that with drafts if there are any."""
    longest = {size.tokens: size for size in step_sizes(deployment)}
    drafts = [1 + MAX_DRAFT_TOKENS] if deployment.draft_tokens else []
    return [longest[tokens] for tokens in (*drafts, 1)]


def _model(deployment: Deployment, recorder: ProgramRecorder) -> MiMoV2FlashModel:
    config, plan = deployment.config, deployment.plan
    return MiMoV2FlashModel(
        _weights(config, deployment, plan.shard_spec(0)),
        config,
        max_step=deployment.chunk * deployment.local_rows,
        backend=recorder,
        group=FakeGroup(plan.world_size),
        plan=plan,
        dtype=deployment.activation_dtype,
        max_length=deployment.context,
        layers_per_program=deployment.layers_per_program,
    )


def _weights(config: MiMoConfig, deployment: Deployment, shard_spec: ShardSpec) -> ModelWeights:
    """Return a rank's weights as meta arrays; layers of the same kind share theirs."""
    few, kind_of_layer = one_of_each_layer(config)
    heads, layout = deployment.draft_tokens, deployment.layout
    stored = meta_weights(few, deployment.weight_dtype, heads, layout)
    weights = meta_arrays(to_device_layout(shard_weights(stored, few, shard_spec)))
    return weights._replace(layers=tuple(weights.layers[kind] for kind in kind_of_layer))


def _run(
    model: MiMoV2FlashModel,
    deployment: Deployment,
    recorder: ProgramRecorder,
    tokens: int,
    start: int,
) -> Counter[int]:
    """Return how often a step calls each program, by the program's number.

    Runs before it record the programs of an overflow, and those that return logits for sampling.
    """
    token_BT = np.zeros((deployment.batch_size, tokens), np.int32)
    position_BT = np.broadcast_to(start + np.arange(tokens, dtype=np.int32), token_BT.shape)
    outputs = tokens if tokens <= 1 + MAX_DRAFT_TOKENS else 1
    last_Bn = np.broadcast_to(np.arange(tokens)[-outputs:], (len(token_BT), outputs))
    for recorder.value, run_step in (
        (1, partial(model.step, logits_at=last_Bn[:, -1:])),  # a short prompt, or its end
        (1, partial(model.greedy, at=last_Bn[:, -1:])),
        (1, partial(model.step, logits_at=last_Bn)),
        (0, partial(model.greedy, at=last_Bn)),
    ):
        recorder.calls.clear()
        run_step(token_BT, position_BT, _cache(model, deployment, start))
    return recorder.calls.copy()


def _draft(
    model: MiMoV2FlashModel, deployment: Deployment, recorder: ProgramRecorder
) -> Counter[int]:
    """Return how often drafting calls each program, where a step has accepted all drafts.

    Runs before it record the programs of steps that accepted fewer, and those of sampling.
    """
    runner, heads = model.runner, deployment.draft_tokens
    outputs = (runner.logits, runner.greedy_tokens)
    for output, accepted in product(outputs, (0, heads)):
        recorder.calls.clear()
        for head in range(heads):
            tokens = 1 + accepted + head
            shape = deployment.batch_size, tokens
            start_B = np.full(shape[0], deployment.context - tokens)
            at_B1 = np.full((shape[0], 1), tokens - 1)
            step = Step(np.zeros(shape, np.int32), start_B, np.full(shape[0], tokens), at_B1)
            runner.draft_outputs(head, output, step, _cache(model, deployment, 1))
    return recorder.calls.copy()


def _kinds(program: RecordedProgram, weights: set[int]) -> dict[str, str]:
    """Return the kind of each input of a program; weights are recognised by their `id`."""
    return {
        path: "weights"
        if id(array) in weights
        else ("cache" if path.startswith(("cache.", "caches.")) else "activations")
        for path, array in tree_arrays(program.arguments).items()
    }


def _cache(model: MiMoV2FlashModel, deployment: Deployment, start: int) -> HybridCache:
    """Return a cache whose sequences hold `start` tokens."""
    sizes = deployment.batch_size, deployment.context, deployment.cache_dtype
    cache = model.new_cache(*sizes, mtp_heads=deployment.draft_tokens)
    oldest = max(0, start - cache.window + 1)
    length_B, oldest_B = np.full_like(cache.length_B, start), np.full_like(cache.oldest_B, oldest)
    return replace(cache, length_B=length_B, oldest_B=oldest_B)
