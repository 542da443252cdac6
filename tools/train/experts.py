"""Router and experts of a layer: tokens sorted by expert, one product of each matrix per expert.

Source: DeepSeek-V3, section 2.1.2 (arXiv:2412.19437), for the balance: after every step the bias of
an expert with more than its share of the tokens goes down by a constant, that of the others up.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Experts", "MoE", "Router"]

ROOM = 128  # rows of an expert are padded to a multiple: oneDNN prepares each new shape anew


class Router(nn.Module):
    """Chooses experts by score plus bias, and weighs them by score alone; in float32.

    Attributes
    ----------
    loads
        How many tokens chose each expert, [E], in each forward pass since `take_load`.
    load_E
        Their sum, as `take_load` found it.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        E = config.n_routed_experts
        self._chosen = config.num_experts_per_tok
        self.weight = nn.Parameter(torch.empty(E, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(E))
        self.loads: list[Tensor] = []
        self.load_E = torch.zeros(E)

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights and numbers of the chosen experts, [N, chosen]."""
        scores_NE = functional.linear(x_ND.float(), self.weight).sigmoid()
        ranking = scores_NE.detach() + self.e_score_correction_bias
        index_NK = ranking.topk(self._chosen, sorted=False).indices
        self.loads.append(torch.bincount(index_NK.flatten(), minlength=len(self.weight)).float())
        weights_NK = scores_NE.gather(1, index_NK)
        return weights_NK / (weights_NK.sum(-1, keepdim=True) + 1e-20), index_NK

    def take_load(self) -> Tensor:
        """Return the load of all passes since the last call, [E], and begin anew."""
        self.load_E, self.loads = torch.stack(self.loads).sum(0), []
        return self.load_E

    @torch.no_grad()
    def balance(self, speed: float) -> None:
        """Lower the bias of experts above the mean load, raise that of the others."""
        self.e_score_correction_bias += speed * torch.sign(self.load_E.mean() - self.load_E)


class Experts(nn.Module):
    """The matrices of all experts of a layer, stacked."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        E, D, F = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(E, 2 * F, D))
        self.down_proj = nn.Parameter(torch.empty(E, D, F))

    def forward(self, x_ND: Tensor, weights_NK: Tensor, index_NK: Tensor) -> Tensor:
        """Return the weighted sum of the chosen experts' outputs, [N, D]."""
        token_S, seat_NK, rooms = seats(index_NK, len(self.down_proj))
        parts = Scatter.apply(x_ND, token_S, seat_NK).split(rooms)
        matrices = (w.to(x_ND.dtype).unbind() for w in (self.gate_up_proj, self.down_proj))
        outputs = [feed(*each) for each in zip(parts, *matrices, strict=True)]
        return Combine.apply(torch.cat(outputs), weights_NK, token_S, seat_NK)


def seats(index_NK: Tensor, experts: int) -> tuple[Tensor, Tensor, list[int]]:
    """Return the token of each seat, the seats of each token, and the seats of each expert.

    A seat that nobody takes has token 0.
    """
    choice = index_NK.flatten()
    order = choice.argsort(stable=True)
    count_E = torch.bincount(choice, minlength=experts)
    room_E = (count_E + ROOM - 1) // ROOM * ROOM
    shift_E = (room_E.cumsum(0) - room_E) - (count_E.cumsum(0) - count_E)
    seat = torch.empty_like(order)
    seat[order] = torch.arange(len(order)) + shift_E[choice[order]]
    token_S = torch.zeros(int(room_E.sum()), dtype=torch.long)
    token_S[seat] = torch.arange(len(choice)) // index_NK.shape[1]
    return token_S, seat.view_as(index_NK), room_E.tolist()


def feed(x_ND: Tensor, w_gate_up_FD: Tensor, w_down_DF: Tensor) -> Tensor:
    """Return SwiGLU's output for the tokens of one expert."""
    gate, up = functional.linear(x_ND, w_gate_up_FD).chunk(2, dim=-1)
    return functional.linear(functional.silu(gate) * up, w_down_DF)


def rows_of(x_SD: Tensor, seat_NK: Tensor) -> Tensor:
    """Return the rows of each token's seats, [N, chosen, D]."""
    return x_SD.index_select(0, seat_NK.flatten()).unflatten(0, seat_NK.shape)


class Scatter(torch.autograd.Function):
    """A copy of each token in each of its seats; PyTorch's gradient would add row by row."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, token_S: Tensor, seat_NK: Tensor) -> Tensor:
        """Return the rows of all seats, [seats, D]."""
        ctx.save_for_backward(seat_NK)
        return x_ND.index_select(0, token_S)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x."""
        return rows_of(gradient, *ctx.saved_tensors).sum(1), None, None


class Combine(torch.autograd.Function):
    """The weighted sum of the rows in each token's seats."""

    @staticmethod
    def forward(
        ctx: Any, y_SD: Tensor, weights_NK: Tensor, token_S: Tensor, seat_NK: Tensor
    ) -> Tensor:
        """Return the sums, [N, D]."""
        rows = rows_of(y_SD, seat_NK)
        ctx.save_for_backward(rows, weights_NK, token_S, seat_NK)
        return (weights_NK[:, None].to(rows.dtype) @ rows)[:, 0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Return the gradients of y and the weights; that of an empty seat is 0."""
        rows, weights_NK, token_S, seat_NK = ctx.saved_tensors
        to_weights = (rows @ gradient[:, :, None])[..., 0].to(weights_NK.dtype)
        weight_S = weights_NK.new_zeros(len(token_S))
        weight_S[seat_NK.flatten()] = weights_NK.flatten()
        to_y = gradient.index_select(0, token_S) * weight_S[:, None].to(gradient.dtype)
        return to_y, to_weights, None, None


class MoE(nn.Module):
    """Router and experts, with transformers' names of parameters."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.experts, self.gate = Experts(config), Router(config)

    def forward(self, x_ND: Tensor) -> Tensor:
        """Return the output for `x_ND`."""
        return self.experts(x_ND, *self.gate(x_ND))
