"""Training of the trunk (main model), whose experts are balanced by the selection bias alone."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import schedule
from .loss import linear_cross_entropy
from .model import Trunk, compute_dtype
from .packing import Batch, Batches, begun, pack, rounded
from .parallel import PARTS, PartGradients
from .shape import Shape

__all__ = ["load", "loss_of", "new_model", "train"]

SEED, WARM_UP = 20260101, 100
BALANCE_SPEED, BALANCED_UNTIL = 1e-3, 0.9  # per step; share of steps that update the bias
HELD_OUT, EVERY = 16, 50  # windows of the held-out loss; steps between log entries


def new_model(shape: Shape, dtype: torch.dtype = torch.float32) -> Trunk:
    """Return the trunk of a shape, initialised at random with `SEED`."""
    torch.manual_seed(SEED)
    return Trunk(shape.configuration(), dtype)


def load(work: Path, shape: Shape, dtype: torch.dtype = torch.float32) -> Trunk:
    """Return the trained trunk of `work`."""
    model = new_model(shape, dtype)
    model.load_state_dict(torch.load(work / "trunk.pt", weights_only=True)["model"])
    return model.eval()


def train(
    work: Path, shape: Shape, budget: schedule.Budget, until: float = math.inf
) -> schedule.TrainingRun:
    """Train the trunk into `trunk.pt`, with the log `trunk.jsonl`; continue if they exist."""
    model = new_model(shape, compute_dtype())
    run = schedule.TrainingRun(work / "trunk", model, budget)
    batches, gradients = Batches(work, shape, SEED), PartGradients(model)
    losses: list[float] = []
    for step in run.steps(until):
        losses.append(gradients.add(loss_of, batches.of_step(step, PARTS)))
        for router in model.routers():
            router.take_load()
            if run.progress(step) < BALANCED_UNTIL:
                router.balance(BALANCE_SPEED)
        if (step + 1) % EVERY == 0 or step + 1 == run.length:
            run.log(step, loss=np.mean(losses), **figures(model, work, shape))
            losses.clear()
    return run


def loss_of(model: Trunk, batch: Batch) -> Tensor:
    """Return the mean loss of the tokens that count."""
    hidden = model(batch.token_N, batch.segments)[batch.counts_N]
    target = batch.next_N[batch.counts_N]
    return linear_cross_entropy(model.normed(hidden), model.lm_head.weight, target)


def figures(model: Trunk, work: Path, shape: Shape) -> dict[str, Any]:
    """Return what the log says of a model: load of the busiest expert, loss of held-out text."""
    loads = [router.load_E for router in model.routers()]
    busiest = max((load.max() / load.mean()).item() for load in loads)
    return {"held_out": held_out_loss(model, work, shape.length), "busiest": busiest}


@torch.no_grad()
def held_out_loss(model: Trunk, work: Path, length: int) -> float:
    """Return the mean loss per token, in nats, over the first `HELD_OUT` windows."""
    ids = np.load(work / "held_out.npy")[: HELD_OUT * length]
    windows = [begun(each) for each in np.split(ids, range(length, len(ids), length))]
    loss = loss_of(model, pack(windows, rounded(len(ids)))).item()
    for router in model.routers():
        router.loads.clear()
    return loss
