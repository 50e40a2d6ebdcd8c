"""Which parts of an input mattered for an output: attention where a network has it, gradient × input where not.

Knows networks and one batch; draws nothing.

Legend: B batch, T steps (or patches), H heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tuner.models.attention import SelfAttention
from tuner.models.sequences import Patches, Readout, Vectors

READOUT = "attention of the readout"
ROLLOUT = "attention rollout (Abnar & Zuidema 2020)"
SALIENCY = "gradient × input"


def attended(network: nn.Module, x: Tensor, output: int | None = None) -> tuple[Tensor, str]:
    """How much each part of x [B, *inputs] mattered for the network's answer, and the name of the method.

    Of a sequence or text the weights are [B, T], of an image [B, H, W'] (a patch's weight is spread over its
    pixels), of numbers [B, features]. They are not negative and sum to 1 for each example; padding has none, and
    where nothing mattered all are 0. Methods:

    - `READOUT`: a recurrent network's attention readout: its weights.
    - `ROLLOUT`: a transformer: the product over the blocks of ½(mean over heads + identity), read as its
      readout reads the steps; where text is continued, as its last position.
    - `SALIENCY`: any other network: |gradient · input| summed over each step's numbers, of its largest answer
      or of number `output` (where text is continued: at the last position). Of text, input is the embedding.

    The network is used in evaluation and left as it was.
    """
    was_training = network.training
    network.eval()
    try:
        with _recording(network) as (blocks, readout):
            if blocks or (readout is not None and readout.score is not None):
                with torch.no_grad():
                    network(x)
                found, method = _attention(blocks, readout)
            else:
                found, method = _saliency(network, x, output), SALIENCY
    finally:
        network.train(was_training)
    patches = next((module for module in network.modules() if isinstance(module, Patches)), None)
    if patches is not None:
        found = found.view(-1, *patches.grid).repeat_interleave(patches.side, 1).repeat_interleave(patches.side, 2)
    total = found.sum(tuple(range(1, found.dim())), keepdim=True)
    return torch.where(total > 0, found / total, 0.0), method


@contextmanager
def _recording(network: nn.Module) -> Iterator[tuple[list[SelfAttention], Readout | None]]:
    """The attention layers in order and the readout, all of which keep the weights of their calls meanwhile."""
    blocks = [module for module in network.modules() if isinstance(module, SelfAttention)]
    readout = next((module for module in network.modules() if isinstance(module, Readout)), None)
    everyone: list[SelfAttention | Readout] = [*blocks, *([] if readout is None else [readout])]
    for module in everyone:
        module.record = True
    try:
        yield blocks, readout
    finally:
        for module in everyone:
            module.record, module.recorded = False, torch.empty(0)


def _attention(blocks: list[SelfAttention], readout: Readout | None) -> tuple[Tensor, str]:
    """Recorded weights as one weight per step, [B, T]."""
    if not blocks:
        assert readout is not None
        return readout.recorded, READOUT
    first = blocks[0].recorded
    own = torch.eye(first.shape[-1], device=first.device, dtype=first.dtype)
    whole = own.expand(len(first), -1, -1)
    for block in blocks:
        whole = 0.5 * (block.recorded.mean(1) + own) @ whole
    if readout is None:
        return whole[:, -1], ROLLOUT
    return (readout.recorded[:, None] @ whole)[:, 0], ROLLOUT


def _saliency(network: nn.Module, x: Tensor, output: int | None) -> Tensor:
    """|gradient · input| of what the network reads: the vectors of its steps where it makes such, else x itself."""
    seen: list[Tensor] = []

    def watch(module: nn.Module, arguments: object, made: Any) -> Any:  # noqa: ARG001
        seen.append((made[0] if isinstance(made, tuple) else made).detach().requires_grad_())
        return (seen[0], made[1]) if isinstance(made, tuple) else seen[0]

    looked_up = (Vectors,) if x.is_floating_point() else (Vectors, nn.Embedding)  # the latter in a person's own network
    vectors = next((module for module in network.modules() if isinstance(module, looked_up)), None)
    watched = None if vectors is None else vectors.register_forward_hook(watch)
    if vectors is None:
        x = x.detach().requires_grad_()
        seen.append(x)
    try:
        with torch.enable_grad():
            answers = network(x)
            answers = answers[:, -1] if answers.dim() == 3 else answers
            chosen = answers.amax(1) if output is None else answers[:, output]
            (gradient,) = torch.autograd.grad(chosen.sum(), seen[0])
    finally:
        if watched is not None:
            watched.remove()
    product = (gradient * seen[0].detach()).abs()
    # An image's channels come first, a sequence's numbers last; plain numbers have but one axis.
    return product if product.dim() == 2 else product.sum(1 if product.dim() == 4 else -1)
