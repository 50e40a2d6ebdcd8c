"""The stacked network: K networks of equal structure as one, with a leading axis of size K.

Knows torch and what a fusible module is; never losses, optimizers or data.

All parameters of all rows lie in one matrix [K, P], so that an update touches memory in few passes;
each parameter is a view of it, which starts at a multiple of 64 bytes in every row.

Legend: K rows of the stack, B batch, P parameters of one row with padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

_ALIGNMENT = 16  # elements: one cache line of float32, so that every row starts alike


class UnusedParameter(RuntimeError):
    """A parameter has no gradient in a step; such a network trains alone."""


class Stack:
    """K networks that run as one. `flat_KP` holds the parameters, `buffers` the stacked buffers by name."""

    def __init__(
        self,
        networks: Sequence[nn.Module],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        company: bool = False,
    ) -> None:
        self.base = networks[0].to(device=device, dtype=dtype)
        self._company = company
        self._training: bool | None = None  # as `base` was told last; None: not yet
        self._moving = [p for p in self.base.parameters() if p.requires_grad]
        self._frozen = [p for p in self.base.parameters() if not p.requires_grad]
        rows = [{n: p for n, p in network.named_parameters() if p.requires_grad} for network in networks]
        self.shapes = {name: parameter.shape for name, parameter in rows[0].items()}
        sizes = [-(-shape.numel() // _ALIGNMENT) * _ALIGNMENT for shape in self.shapes.values()]
        self.offsets = dict(zip(self.shapes, [sum(sizes[:i]) for i in range(len(sizes))], strict=True))
        flat = torch.zeros(len(networks), sum(sizes), device=device, dtype=dtype)
        for row, parameters in zip(flat, rows, strict=True):
            for name, parameter in parameters.items():
                start = self.offsets[name]
                row[start : start + parameter.numel()] = parameter.detach().flatten().to(flat)
        # What is frozen is carried along like a buffer, out of reach of gradients and weight decay.
        frozen = [{n: p.detach() for n, p in network.named_parameters() if not p.requires_grad} for network in networks]
        buffers = [{**dict(n.named_buffers()), **held} for n, held in zip(networks, frozen, strict=True)]
        self.buffers = {
            name: torch.stack([row[name].to(device) for row in buffers]).to(
                dtype if value.is_floating_point() else None
            )
            for name, value in buffers[0].items()
        }
        self._names = [*self.shapes, *self.buffers]
        self._places = _places(self.base, self._names)
        self._shared = vmap(self._one, in_dims=(0, None))
        self._apart = vmap(self._one, in_dims=(0, 0))
        self.replace(flat)

    def replace(self, flat_KP: Tensor) -> None:
        """Put other parameters in place, possibly of another number of rows."""
        self.flat_KP = flat_KP
        self.gradient_KP = torch.zeros_like(flat_KP)
        self.parameters = {name: self._view(flat_KP, name).detach().requires_grad_() for name in self.shapes}
        self._gradients = [self._view(self.gradient_KP, name) for name in self.shapes]

    def _view(self, flat_KP: Tensor, name: str) -> Tensor:
        start, shape = self.offsets[name], self.shapes[name]
        return flat_KP[:, start : start + shape.numel()].view(len(flat_KP), *shape)

    def _one(self, values: list[Tensor], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """One row's answer, and the buffers that its network put others in place of.

        The base network with that row's parameters and buffers in its places: what torch.func.functional_call
        does, whose search for the places costs more than a small network's step.
        """
        if self._places is None:
            held = dict(zip(self._names, values, strict=True))
            output: Tensor = functional_call(self.base, held, (x,))
            return output, {n: held[n] for n, value in zip(self._names, values, strict=True) if held[n] is not value}
        own = [holder[leaf] for holder, leaf, _ in self._places]
        for holder, leaf, index in self._places:
            holder[leaf] = values[index]
        try:
            output = self.base(x)
            fresh = {
                self._names[index]: holder[leaf]
                for holder, leaf, index in self._places
                if holder[leaf] is not values[index]
            }
        finally:
            for (holder, leaf, _), value in zip(self._places, own, strict=True):
                holder[leaf] = value
        return output, fresh

    def __len__(self) -> int:
        return len(self.flat_KP)

    @property
    def size(self) -> int:
        """Parameters of one network, padding not counted."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def forward(self, x: Tensor, *, training: bool, shared: bool) -> Tensor:
        """Outputs [K, B, …] for x [B, …] seen by every row (`shared`) or x [K, B, …].

        A stack of one row runs as the plain network that it is, unless it is `company` for rows to come or gone.
        """
        if self._training is not training:  # a network's own train() may do more than to set a flag
            if any(p.requires_grad for p in self._frozen) or not all(p.requires_grad for p in self._moving):
                raise UnusedParameter("a parameter was frozen or unfrozen while it trained")
            self.base.train(training)
            self._training = training
        values = [*self.parameters.values(), *self.buffers.values()]
        if len(self) == 1 and not self._company:
            one, fresh = self._one([value[0] for value in values], x if shared else x[0])
            output, fresh = one[None], {name: value[None] for name, value in fresh.items()}
        else:
            output, fresh = (self._shared if shared else self._apart)(values, x)
        for name, value in fresh.items():
            self.buffers[name] = value.detach().to(self.buffers[name].dtype)
        return output

    def told(self, *, training: bool) -> None:
        """`base` is in that mode already."""
        self._training = training

    def backward(self, loss_K: Tensor) -> Tensor:
        """The gradient of every row's own loss by its own parameters, [K, P]; padding stays 0.

        Raises UnusedParameter where one took no part: torch.optim passes over it, which an update of all rows cannot.
        """
        found = torch.autograd.grad(loss_K.sum(), list(self.parameters.values()), allow_unused=True)
        for name, place, gradient in zip(self.shapes, self._gradients, found, strict=True):
            if gradient is None:
                raise UnusedParameter(f"the parameter {name} takes no part in a training step")
            place.copy_(gradient)
        return self.gradient_KP

    def take(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be named twice. rows: int64 [K']."""
        self.buffers = {name: value[rows] for name, value in self.buffers.items()}
        self.replace(self.flat_KP[rows])

    def state(self) -> dict[str, Tensor]:
        """All that training changes, stacked: parameters under "flat", buffers under their names."""
        return {"flat": self.flat_KP, **{f"buffer:{name}": value for name, value in self.buffers.items()}}

    def restore(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        device = self.flat_KP.device
        self.buffers = {name: state[f"buffer:{name}"].to(device) for name in self.buffers}
        self.replace(state["flat"].to(device))

    def keep(self, best: dict[str, Tensor], better_K: Tensor) -> None:
        """Write the rows that got `better` (bool [K], on the CPU) into `best`, an earlier `state`."""
        if not better_K.any():
            return
        there = better_K.to(self.flat_KP.device)
        for name, now in self.state().items():
            mask = there.view(-1, *(1,) * (now.dim() - 1))
            best[name] = torch.where(mask, now.detach(), best[name])

    @torch.no_grad()
    def put(self, weights: dict[str, Tensor]) -> None:
        """Give every row these weights, as `weights` gave them."""
        for name, place in {**self.parameters, **self.buffers}.items():
            place.copy_(weights[name].expand(place.shape))

    def weights(self, state: dict[str, Tensor], row: int) -> dict[str, Tensor]:
        """One row of a `state`, on the CPU: parameters and buffers by the names that the plain network gives them."""
        parameters = {name: self._view(state["flat"][row : row + 1], name)[0] for name in self.shapes}
        buffers = {name: state[f"buffer:{name}"][row] for name in self.buffers}
        return {name: value.detach().cpu().clone() for name, value in {**parameters, **buffers}.items()}


def _places(network: nn.Module, names: Sequence[str]) -> list[tuple[dict[str, Any], str, int]] | None:
    """Where a network keeps each of these parameters and buffers: (dict, key, position in `names`); tied ones twice.

    None where one is in no such dict.
    """
    tensors = {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }
    positions = {id(tensors[name]): position for position, name in enumerate(names)}
    found = []
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        module = network.get_submodule(path)
        held = (getattr(module, kind, None) for kind in ("_parameters", "_buffers"))
        holder = next((one for one in held if isinstance(one, dict) and one.get(leaf) is tensor), None)
        if holder is None:
            return None
        found.append((holder, leaf, positions[id(tensor)]))
    return found
