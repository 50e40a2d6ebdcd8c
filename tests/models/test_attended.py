"""What mattered: attention where a network has it, gradient × input where not, never the padding."""

from __future__ import annotations

import pytest
import torch

from tests import zoo
from tests.models.test_networks import PADDED, close, inputs, network, normal
from tuner.models import attended, build

torch.set_num_threads(1)
METHODS = {
    "rnn": attended.SALIENCY,
    "cnn": attended.SALIENCY,
    "mlp": attended.SALIENCY,
    "transformer": attended.ROLLOUT,
}


@pytest.mark.parametrize("case", zoo.CASES, ids=lambda case: case.name)
def test_what_mattered_is_a_share_of_every_real_part(case: zoo.Case) -> None:
    model, x = network(case).train(), inputs(case)
    weights, method = attended.attended(model, x)
    by_readout = case.family == "rnn" and case.network.get("readout") == "attention"
    assert method == (attended.READOUT if by_readout else METHODS[case.family])
    shape = {"sequence": x.shape[:2], "image": (len(x), *x.shape[2:])}.get(case.signature.modality, x.shape)
    assert weights.shape == shape
    assert bool((weights >= 0).all())
    close(weights.flatten(1).sum(1), torch.ones(len(x), dtype=torch.float64))
    if case in PADDED and case.family != "mlp":
        real = x[..., -1] > 0 if case.signature.masked else x != 0
        assert float(weights[~real].abs().max()) == 0.0
    assert model.training
    assert not weights.requires_grad
    assert not any(getattr(module, "record", False) for module in model.modules())


def test_gradient_times_input_of_a_linear_network_is_its_terms() -> None:
    torch.manual_seed(0)
    model = build("mlp", zoo.NUMBERS, {"depth": 0}).double()
    x = normal(5, 13)
    weights, _ = attended.attended(model, x, output=2)
    terms = (model.layers[-1].weight[2] * x).abs()
    close(weights, terms / terms.sum(1, keepdim=True))


def test_attention_of_the_readout_is_its_softmax() -> None:
    case = next(case for case in zoo.CASES if case.name == "lstm-masked-attention")
    model, x = network(case), inputs(case)
    seen = []
    model.readout.score.register_forward_hook(lambda module, given, made: seen.append(made[..., 0]))
    weights, _ = attended.attended(model, x)
    close(weights, seen[0].masked_fill(x[..., -1] == 0, -torch.inf).softmax(1))


def test_rollout_is_the_product_of_the_blocks() -> None:
    case = next(case for case in zoo.CASES if case.name == "transformer")
    model, x = network(case), inputs(case)
    for block in model.blocks:
        block.attention.record = True
    model(x)
    first, second = (
        0.5 * (block.attention.recorded.mean(1) + torch.eye(7, dtype=torch.float64)) for block in model.blocks
    )
    close(attended.attended(model, x)[0], (second @ first).mean(1))
