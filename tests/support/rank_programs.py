"""Programs of one rank, run as processes: `python -m tests.support.rank_programs NAME ...`.

The odd rank misbehaves as the name of the program says; the others do not. A program imports what
it alone needs: transformers takes several times as long to import as all the rest.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mimo_v2_flash.parallel import HostGroup, check_consistent, init_process_group

ONE = np.ones(1, np.float32)


def nothing_wrong(group: HostGroup, odd: bool) -> None:
    assert group.all_reduce(ONE).item() == group.size


def equals_threads(group: HostGroup, odd: bool) -> None:
    from tests.support.same_collectives import same_as_threads

    same_as_threads(group)


def raises(group: HostGroup, odd: bool) -> None:
    if odd:
        raise LookupError("no such expert")
    group.all_reduce(ONE)


def is_killed(group: HostGroup, odd: bool) -> None:
    if odd:
        os.kill(os.getpid(), signal.SIGKILL)
    group.all_reduce(ONE)


def freezes(group: HostGroup, odd: bool) -> None:
    if odd:
        os.kill(os.getpid(), signal.SIGSTOP)
    group.all_reduce(ONE)


def is_killed_while_others_compute(group: HostGroup, odd: bool) -> None:
    if odd:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def returns_early(group: HostGroup, odd: bool) -> None:
    if not odd:
        group.all_reduce(ONE)


def brings_another_shape(group: HostGroup, odd: bool) -> None:
    group.all_reduce(np.ones(2 if odd else 1, np.float32))


def calls_another_collective(group: HostGroup, odd: bool) -> None:
    (group.all_gather if odd else group.all_reduce)(ONE)


def has_another_config(group: HostGroup, odd: bool) -> None:
    check_consistent(group, layers=48, window=64 if odd else 128)


def splits_otherwise(group: HostGroup, odd: bool) -> None:
    if group.rank < 3:
        group.split([0, 1, 2] if odd else [0, 1]).all_reduce(ONE)
    group.all_reduce(ONE)


def raises_non_finite(group: HostGroup, odd: bool) -> None:
    """Run a step of which one row has a bad embedding: it ends, on every rank, and no other."""
    import pytest

    from mimo_v2_flash import NonFiniteError
    from mimo_v2_flash.parallel_config import ParallelConfig
    from tests.support.poison import BAD_TOKEN, poisoned
    from tests.support.tiny import Recipe, running, tiny

    model = poisoned(tiny(Recipe(experts=8, dense_width=32, vocabulary=64)), "embedding")
    plan = ParallelConfig(group.size, group.size // 2, 2)
    ours = running(model, group=group, plan=plan)
    with pytest.raises(NonFiniteError) as caught:
        ours.forward([[1, 2, 3], [1, 2, BAD_TOKEN], [4, 5, 6]])
    assert np.isfinite(caught.value.logits[[0, 2]]).all()
    sys.stdout.write(f"{caught.value}\n")
    assert np.isfinite(ours.forward([[1, 2, 3]])).all()


def aborts(group: HostGroup, odd: bool) -> None:
    """Abort on the odd rank, whose program goes on; the others wait for a message."""
    if odd:
        group.abort(LookupError("no such expert"))
        time.sleep(600)
    group.broadcast(b"")


def generates(group: HostGroup, odd: bool) -> None:
    """Generate on all ranks: each has all tokens, and hears of each."""
    rows = _small_model(group).generate(
        [[1, 2, 3], [4]], max_new_tokens=5, temperature=1.0, seed=3, on_token=_write_token
    )
    sys.stdout.write(f"tokens {rows}\n")


def _write_token(row: int, token: int) -> None:
    sys.stdout.write(f"token {row} {token}\n")


def leads_and_follows(group: HostGroup, odd: bool) -> None:
    """Answer requests on rank 0, with a pause in which the others wait; the odd rank is killed."""
    from mimo_v2_flash import Engine, SamplingParams

    with Engine(_small_model(group), 4) as engine:
        if odd:
            step = engine._worker.step
            engine._worker.step = lambda plan: _step_or_die(engine, step, plan)
        if group.rank:
            engine.follow()
            return
        for pause in (0, 3):
            time.sleep(pause)
            ids = [engine.submit([1, 2, token], SamplingParams(max_tokens=6)) for token in (3, 4)]
            results = engine.run()
            for id_ in ids:
                (answer,) = results[id_].answers
                sys.stdout.write(f"answer {id_}: {answer.finish_reason}: {answer.error}\n")
                sys.stdout.flush()


def _step_or_die(engine: Any, step: Callable[[Any], Any], plan: Any) -> Any:
    """Die at the fourth step, as if the machine were gone."""
    engine._taken = getattr(engine, "_taken", 0) + 1
    if engine._taken == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(plan)


def _small_model(group: HostGroup) -> Any:
    from mimo_v2_flash.parallel_config import ParallelConfig
    from tests.support.spread import admitting
    from tests.support.tiny import Recipe, running, tiny

    plan = ParallelConfig(group.size, 1, group.size)
    return running(tiny(admitting(Recipe(), plan)), group=group, plan=plan, max_length=64)


def is_slow(group: HostGroup, odd: bool) -> None:
    """Compute on the odd rank for longer than the timeout of the heartbeat."""
    until = time.monotonic() + 8 * odd
    while time.monotonic() < until:
        np.ones((200, 200)) @ np.ones((200, 200))
    nothing_wrong(group, odd)


if __name__ == "__main__":
    name, odd_rank, start_timeout, heartbeat_timeout = sys.argv[1:]
    with init_process_group(
        os.environ, start_timeout=float(start_timeout), heartbeat_timeout=int(heartbeat_timeout)
    ) as ranks:
        globals()[name](ranks, ranks.rank == int(odd_rank))
        sys.stdout.write(f"rank {ranks.rank} of {ranks.size} is well\n")
