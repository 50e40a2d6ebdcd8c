"""The families' own laws: equal to torch's layers, deaf to padding, blind to the future, exportable."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests import zoo
from tuner import models
from tuner.models import FAMILIES, Signature, build
from tuner.models.attention import Block, SelfAttention, sinusoids
from tuner.models.cells import CELLS, LSTM
from tuner.models.cnn import Block as Convolution
from tuner.models.layers import BatchNorm
from tuner.models.recurrent import Recurrent
from tuner.models.sequences import LayerNorm, Patches, Readout, last_steps
from tuner.training.cohort import Stack
from tuner.training.fusibility import unsteady

torch.set_num_threads(1)
TIME, BATCH, FEATURES, WIDTH = 7, 4, 5, 6
LENGTHS = torch.tensor([7, 1, 4, 5])
NATIVE = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
NEW = [case for case in zoo.CASES if case.signature.modality in ("sequence", "text") or case.family == "transformer"]
PADDED = [
    case
    for case in NEW
    if case.signature.masked or (case.signature.modality == "text" and case.signature.task != "language")
]


def close(ours: Tensor, theirs: Tensor, what: str = "") -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10, msg=lambda text: f"{what}: {text}")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(case: zoo.Case, **changes: Any) -> nn.Module:
    torch.manual_seed(3)
    return build(case.family, case.signature, {**case.network, **changes}).double().eval()


def inputs(case: zoo.Case, count: int = 9) -> Tensor:
    return zoo.arrays(case.signature, torch.float64).inputs[:count]


# ------------------------------------------------------------------ against torch's own layers


def as_torch(value: Tensor, cell: str) -> Tensor:
    """Our gates in torch's order along the first axis."""
    if CELLS[cell] is not LSTM:
        return value
    into, forget, out, candidate = value.chunk(4)
    return torch.cat((into, forget, candidate, out))


def twin(ours: Recurrent, cell: str, bidirectional: bool) -> nn.RNNBase:
    """torch's layer with our weights."""
    theirs = NATIVE[cell](ours.weight.shape[1], ours.width, bidirectional=bidirectional).double()
    with torch.no_grad():
        for direction, end in zip(range(ours.directions), ("", "_reverse"), strict=False):
            getattr(theirs, f"weight_ih_l0{end}").copy_(as_torch(ours.weight[direction].T, cell))
            getattr(theirs, f"bias_ih_l0{end}").copy_(as_torch(ours.bias[direction, 0], cell))
            getattr(theirs, f"weight_hh_l0{end}").copy_(as_torch(ours.recurrent_weight[direction].T, cell))
            getattr(theirs, f"bias_hh_l0{end}").zero_()
            if ours.recurrent_bias is not None:
                getattr(theirs, f"bias_hh_l0{end}").copy_(ours.recurrent_bias[direction, 0])
    return theirs


@pytest.mark.parametrize("packed", [False, True], ids=["equal", "unequal"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forwards", "both"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_recurrent_layer_and_its_gradients_are_torchs(cell: str, bidirectional: bool, packed: bool) -> None:
    torch.manual_seed(0)
    ours = Recurrent(cell, FEATURES, WIDTH, bidirectional=bidirectional).double()
    theirs = twin(ours, cell, bidirectional)
    x = normal(TIME, BATCH, FEATURES).requires_grad_()
    real = torch.arange(TIME)[:, None] < LENGTHS
    if packed:
        bundle = nn.utils.rnn.pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
        answer, ends = theirs(bundle)
        expected, _ = nn.utils.rnn.pad_packed_sequence(answer)
        found, last = ours(x, real)
        found = found * real[..., None]
    else:
        expected, ends = theirs(x)
        found, last = ours(x)
    close(found, expected)
    expected_last = (ends[0] if cell == "lstm" else ends).transpose(0, 1).flatten(1)
    close(last, expected_last, "last state")
    weighing, at_last = normal(*expected.shape, seed=1), normal(*expected_last.shape, seed=2)
    names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0"] + ["bias_hh_l0"] * ours.cell.biased
    mine = [ours.weight, ours.recurrent_weight, ours.bias, *([ours.recurrent_bias] if ours.cell.biased else [])]
    by_x, *by_mine = torch.autograd.grad((found * weighing).sum() + (last * at_last).sum(), [x, *mine])
    both = [f"{name}{end}" for end in ("", "_reverse")[: ours.directions] for name in names]
    of_theirs = (expected * weighing).sum() + (expected_last * at_last).sum()
    theirs_by_x, *by_theirs = torch.autograd.grad(of_theirs, [x, *(getattr(theirs, n) for n in both)])
    close(by_x, theirs_by_x, "inputs")
    for direction in range(ours.directions):
        by_input, by_state, *by_bias = (value[direction] for value in by_mine)
        parts = [by_input.T, by_state.T, *(value[0] for value in by_bias)]
        for name, part in zip(names, parts, strict=True):
            close(as_torch(part, cell), by_theirs[direction * len(names) + names.index(name)], f"{direction} {name}")


def as_columns(module: nn.Module, x: Tensor, *others: Any) -> Tensor:
    """A module of columns [W, B, T] on x [B, T, W], as torch has it."""
    return module(x.permute(2, 0, 1), *others).permute(1, 2, 0)


def test_attention_is_torchs() -> None:
    torch.manual_seed(0)
    x = normal(BATCH, TIME, 12)
    real = torch.arange(TIME) < LENGTHS[:, None]
    for causal in (False, True):
        ours = SelfAttention(12, 3, causal=causal).double()
        theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
        with torch.no_grad():
            theirs.in_proj_weight.copy_(ours.inward.weight)
            theirs.in_proj_bias.copy_(ours.inward.bias)
            theirs.out_proj.load_state_dict(ours.outward.state_dict())
        later = torch.ones(TIME, TIME, dtype=torch.bool).triu(1) if causal else None
        expected = theirs(x, x, x, key_padding_mask=~real, attn_mask=later, need_weights=False)[0]
        close(as_columns(ours, x, real), expected, "mha")
        parts = F.linear(x, ours.inward.weight, ours.inward.bias)
        query, key, value = parts.view(BATCH, TIME, 3, 3, 4).permute(2, 0, 3, 1, 4)
        product = F.scaled_dot_product_attention(query, key, value, is_causal=causal).transpose(1, 2).flatten(2)
        close(as_columns(ours, x, None), F.linear(product, ours.outward.weight, ours.outward.bias), "sdpa")


def test_a_block_and_its_gradient_are_torchs() -> None:
    torch.manual_seed(0)
    ours = Block(12, 3, 20, "gelu", 0.0).double()
    theirs = nn.TransformerEncoderLayer(12, 3, 20, 0.0, "gelu", batch_first=True, norm_first=True).double()
    copies = {
        "self_attn.in_proj_": ours.attention.inward,
        "self_attn.out_proj.": ours.attention.outward,
        "linear1.": ours.forward_part[0],
        "linear2.": ours.forward_part[2],
        "norm1.": ours.before_attention,
        "norm2.": ours.before_forward,
    }
    theirs.load_state_dict(
        {f"{name}{end}": getattr(m, end) for name, m in copies.items() for end in ("weight", "bias")}
    )
    x = normal(BATCH, TIME, 12).requires_grad_()
    real = torch.arange(TIME) < LENGTHS[:, None]
    found, expected = as_columns(ours, x, real), theirs(x, src_key_padding_mask=~real)
    close(found, expected)
    weighing = normal(BATCH, TIME, 12, seed=1)
    close(*(torch.autograd.grad((output * weighing).sum(), x)[0] for output in (found, expected)), "gradient")


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("time", [6, 7])
def test_a_convolution_over_time_is_torchs(kernel: int, time: int) -> None:
    torch.manual_seed(0)
    ours = Convolution(FEATURES, WIDTH, kernel, "tanh", "none").double()
    theirs = nn.Conv1d(FEATURES, WIDTH, kernel, padding=kernel // 2).double()
    with torch.no_grad():
        theirs.weight.copy_(ours.windows.weight.view(WIDTH, kernel, FEATURES).mT)
        theirs.bias.copy_(ours.windows.bias)
    x = normal(BATCH, time, FEATURES)
    expected = F.max_pool1d(theirs(x.mT).tanh(), 2, ceil_mode=True).mT
    close(ours(x, None)[0], expected)


def test_a_batch_norm_counts_real_steps_alone() -> None:
    real = torch.tensor([True, False, True, True, False, True])
    x = normal(6, 3)
    ours, theirs = BatchNorm(3).double(), nn.BatchNorm1d(3).double()
    close(ours(x, real)[real], theirs(x[real]))
    close(ours.mean, theirs.running_mean)
    close(ours.variance, theirs.running_var)


def test_a_layer_norm_is_torchs() -> None:
    ours, theirs = LayerNorm(6).double(), nn.LayerNorm(6).double()
    with torch.no_grad():
        for module in (ours, theirs):
            module.weight.copy_(torch.linspace(0.5, 2, 6))
            module.bias.copy_(torch.linspace(-1, 1, 6))
    x = normal(BATCH, TIME, 6)
    close(ours(x), theirs(x))


def test_patches_are_the_images_squares_row_by_row() -> None:
    image = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    found, _ = Patches(Signature("classification", "image", (2, 4, 6), 3), 2)(image)
    assert found.shape == (1, 6, 8)
    for place in range(6):
        down, right = divmod(place, 3)
        square = image[0, :, 2 * down : 2 * down + 2, 2 * right : 2 * right + 2]
        assert torch.equal(found[0, place], square.flatten())


def test_sinusoids_are_those_of_the_paper() -> None:
    table = sinusoids(50, 7)
    assert table.shape == (50, 7)
    for place, column in ((0, 0), (3, 1), (49, 4), (20, 5)):
        angle = place / 10_000 ** ((column // 2 * 2) / 7)
        expected = torch.tensor(angle).sin() if column % 2 == 0 else torch.tensor(angle).cos()
        assert float(table[place, column]) == pytest.approx(float(expected), abs=1e-5)


# ------------------------------------------------------------------ readouts


def test_readouts_read_real_steps() -> None:
    h = normal(3, 4, 2)
    real = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    assert last_steps(real).nonzero().tolist() == [[0, 3], [1, 0]]
    zero = torch.zeros(2, dtype=torch.float64)
    close(Readout("mean", 2)(h, real), torch.stack((h[0].mean(0), h[1, 0], zero)))
    close(Readout("last", 2)(h, real), torch.stack((h[0, 3], h[1, 0], zero)))
    close(Readout("last", 2)(h, None), h[:, -1])
    attention = Readout("attention", 2).double()
    close(attention.weights(h, real).sum(1), real.any(1).double())
    close(attention(h, real)[1], h[1, 0])
    for name in ("mean", "last"):
        readout = Readout(name, 2)
        close(readout(h, None), (h * readout.weights(h, None)[..., None]).sum(1))


# ------------------------------------------------------------------ padding and time


@pytest.mark.parametrize("case", [case for case in NEW if case.signature.masked], ids=lambda case: case.name)
def test_what_stands_in_the_padding_does_not_matter(case: zoo.Case) -> None:
    x = inputs(case)
    told = x.clone()
    told[..., :-1] = torch.where(x[..., -1:] > 0, x[..., :-1], 1e6 * normal(*x[..., :-1].shape))
    assert not torch.equal(x, told)
    model = network(case)
    close(model(told), model(x))


@pytest.mark.parametrize("case", PADDED, ids=lambda case: case.name)
def test_how_long_the_padding_is_does_not_matter(case: zoo.Case) -> None:
    if case.family == "mlp" or (case.family == "cnn" and case.network.get("readout", "flatten") == "flatten"):
        pytest.skip("its output layer has weights for every place")
    x = inputs(case)
    longer = F.pad(x, (0, 3) if x.dim() == 2 else (0, 0, 0, 3))
    model = network(case, **({"positions": "sinusoidal"} if case.family == "transformer" else {}))
    if case.family == "transformer":  # a table of places for the longer ones
        model.places = sinusoids(longer.shape[1], model.places.shape[1]).double()
    close(model(longer), model(x))


@pytest.mark.parametrize("case", PADDED, ids=lambda case: case.name)
def test_an_example_of_nothing_but_padding_has_a_finite_answer_and_gradient(case: zoo.Case) -> None:
    model = network(case).train()
    x = inputs(case)
    x[2] = 0
    output = model(x)
    output.square().sum().backward()
    assert torch.isfinite(output).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "case", [case for case in NEW if case.signature.task == "language"], ids=lambda case: case.name
)
def test_an_answer_does_not_know_what_comes_after(case: zoo.Case) -> None:
    x = inputs(case)
    model = network(case)
    whole = model(x)
    for time in range(x.shape[1] - 1):
        other = x.clone()
        other[:, time + 1 :] = (other[:, time + 1 :] + 3) % case.signature.vocabulary
        close(model(other)[:, : time + 1], whole[:, : time + 1], str(time))
        close(model(x[:, : time + 1]), whole[:, : time + 1], f"a prompt of {time + 1}")
    assert not torch.allclose(model(x.roll(1, 1))[:, -1], whole[:, -1])


# ------------------------------------------------------------------ what it may be told, and how it leaves


@pytest.mark.parametrize(
    ("family", "signature", "keywords", "told"),
    [
        ("rnn", zoo.LANGUAGE, {"bidirectional": True}, "bidirectional must be false"),
        ("transformer", zoo.SEQUENCES, {"width": 10, "heads": 4}, "width must be divisible by heads, got width 10 and"),
        ("transformer", zoo.PATCHES, {"patch": 4}, "patch must divide the image's sides, got patch 4 for a 6×8 image"),
        ("cnn", zoo.SEQUENCES, {"depth": 3}, "depth 3 halves 7 steps to nothing"),
        ("cnn", zoo.TEXTS, {"kernel": 2}, "kernel must be odd"),
    ],
)
def test_what_cannot_be_built_is_told_plainly(
    family: str, signature: Signature, keywords: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        build(family, signature, keywords)


def test_every_family_says_what_it_takes_and_what_it_is_for_and_runs_on_it() -> None:
    signatures = [
        zoo.NUMBERS,
        zoo.IMAGES,
        zoo.SEQUENCES,
        zoo.UNEQUAL,
        zoo.TEXTS,
        zoo.TARGETS,
        zoo.LENGTHS,
        zoo.LANGUAGE,
    ]
    for family in models.FAMILIES:
        small = {"patch": 1} if family == "transformer" else {}
        for signature in signatures:
            if signature.modality in FAMILIES[family].modalities and signature.task in FAMILIES[family].tasks:
                model = build(family, signature, small)
                assert model(signature.example(2)).shape == signature.output_shape(2), (family, signature)
                with torch.device("meta"):
                    shape = build(family, signature, small)(signature.example(2)).shape
                assert shape == signature.output_shape(2), (family, signature)


@pytest.mark.parametrize("case", NEW, ids=lambda case: case.name)
def test_every_network_of_steps_fuses_by_the_test_that_strangers_take(case: zoo.Case) -> None:
    def made(row: int) -> torch.nn.Module:
        torch.manual_seed(row)
        return build(case.family, case.signature, {**case.network, "dropout": (0.0, 0.5)[row]})

    assert unsteady(made, zoo.arrays(case.signature).inputs[:2], shared=True) == ""


@pytest.mark.parametrize("case", NEW, ids=lambda case: case.name)
def test_an_exported_network_answers_alike_for_every_size_of_batch(case: zoo.Case) -> None:
    model = network(case).float()
    x = zoo.arrays(case.signature).inputs
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(model, (case.signature.example(3),), dynamic_shapes=dynamic).module()
    for count in (1, 2, 17):
        torch.testing.assert_close(program(x[:count]), model(x[:count]))


def test_stacks_of_every_length_share_a_network_of_texts() -> None:
    """A cohort answers a prompt shorter than its texts, as generation asks."""
    case = next(case for case in zoo.CASES if case.name == "gru-language")
    networks = [network(case), network(case)]
    stack = Stack(networks, torch.device("cpu"), torch.float64)
    x = inputs(case)[:, :4]
    close(stack.forward(x, training=False, shared=True)[1], network(case)(x))
