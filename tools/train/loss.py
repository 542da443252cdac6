"""Cross-entropy of an LM head, whose logits never exist all at once."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["linear_cross_entropy"]

ROWS = 512  # tokens whose logits exist at a time


class LinearCrossEntropy(torch.autograd.Function):
    """The mean loss of logits x W^T, with the gradients computed beside it."""

    @staticmethod
    def forward(ctx: object, x_ND: Tensor, w_VD: Tensor, target_N: Tensor) -> Tensor:
        """Return the mean loss in nats."""
        count, padding = len(x_ND), -len(x_ND) % ROWS  # oneDNN prepares each new shape anew
        x_ND, target_N = (
            functional.pad(x_ND, (0, 0, 0, padding)),
            functional.pad(target_N, (0, padding)),
        )
        counts_N1 = (torch.arange(len(x_ND)) < count).float()[:, None]
        total, weight = torch.zeros(()), w_VD.to(x_ND.dtype)
        to_x, to_weight = torch.empty_like(x_ND), torch.zeros_like(w_VD)
        for start in range(0, len(x_ND), ROWS):
            rows = slice(start, start + ROWS)
            x, target = x_ND[rows], target_N[rows, None]
            log_probability = (x @ weight.T).float().log_softmax(-1)
            total -= log_probability.gather(1, target).mul(counts_N1[rows]).sum()
            to_logits = log_probability.exp_()
            to_logits.scatter_add_(1, target, to_logits.new_full(target.shape, -1.0))
            to_logits = to_logits.mul_(counts_N1[rows]).to(x_ND.dtype)
            to_x[rows] = to_logits @ weight
            to_weight += (to_logits.T @ x).float()
        ctx.save_for_backward(to_x[:count], to_weight)
        ctx.count = count
        return total / count

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of x and W."""
        scale = gradient / ctx.count
        to_x, to_weight = (each * scale.to(each.dtype) for each in ctx.saved_tensors)
        return to_x, to_weight, None


def linear_cross_entropy(x_ND: Tensor, w_VD: Tensor, target_N: Tensor) -> Tensor:
    """Return the mean cross-entropy of the logits x W^T, in nats."""
    return LinearCrossEntropy.apply(x_ND, w_VD, target_N)
