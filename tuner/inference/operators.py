"""The operators that a champion's network may consist of: an allow-list, so that one that is handed on runs no code.

All of them compute tensors from tensors and numbers. What reads or writes files, takes a storage apart, or trusts its
arguments with memory (`aten.from_file`, `aten.set_`, `aten.linalg_lu_solve` …) is not among them, nor is any operator
of a library beside torch. Knows torch's operators; never a network.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

# Names of torch.ops.aten, each with all of its overloads that answer tensors.
_ATEN = """
__and__ __iand__ __ior__ __ixor__ __lshift__ __or__ __rshift__ __xor__ _unique2 _upsample_bicubic2d_aa
_upsample_bilinear2d_aa _weight_norm abs abs_ absolute absolute_ acos acos_ acosh acosh_ adaptive_avg_pool1d
adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d add add_ addbmm
addbmm_ addcdiv addcdiv_ addcmul addcmul_ addmm addmm_ addmv addmv_ addr addr_ adjoint affine_grid_generator alias all
alpha_dropout amax amin aminmax angle any arange arccos arccos_ arccosh arccosh_ arcsin arcsin_ arcsinh arcsinh_
arctan arctan2 arctan2_ arctan_ arctanh arctanh_ argmax argmin argsort argwhere as_strided asin asin_ asinh asinh_
atan atan2 atan2_ atan_ atanh atanh_ atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d baddbmm
baddbmm_ batch_norm bernoulli bernoulli_ bilinear bincount bitwise_and bitwise_and_ bitwise_left_shift bitwise_not
bitwise_not_ bitwise_or bitwise_or_ bitwise_right_shift bitwise_xor bitwise_xor_ block_diag bmm broadcast_tensors
broadcast_to bucketize cartesian_prod cat cdist ceil ceil_ celu celu_ channel_shuffle chunk clamp clamp_ clamp_max
clamp_max_ clamp_min clamp_min_ clip clip_ clone col2im column_stack complex concat concatenate conj conj_physical
constant_pad_nd contiguous conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d
convolution copy copy_ copysign copysign_ corrcoef cos cos_ cosh cosh_ cosine_similarity count_nonzero cov cross
cummax cummin cumprod cumprod_ cumsum cumsum_ cumulative_trapezoid deg2rad deg2rad_ det detach detach_ diag diag_embed
diagflat diagonal diagonal_scatter diff digamma digamma_ dist div div_ divide divide_ dot dropout dropout_ dsplit
dstack einsum elu elu_ embedding embedding_bag empty empty_like empty_permuted eq eq_ erf erf_ erfc erfc_ erfinv
erfinv_ exp exp2 exp2_ exp_ expand expand_as expm1 expm1_ exponential_ eye feature_alpha_dropout feature_dropout
fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_hfft fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_ihfft
fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn fill fill_ fill_diagonal_ fix fix_ flatten
flip fliplr flipud float_power floor floor_ floor_divide floor_divide_ fmax fmin fmod fmod_ frac frac_ frexp
frobenius_norm full full_like gather gcd ge ge_ gelu gelu_ glu gradient greater greater_equal grid_sampler
grid_sampler_2d grid_sampler_3d group_norm gru gru_cell gt gt_ hamming_window hann_window hardshrink hardsigmoid
hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ heaviside histc hsplit hstack hypot hypot_ i0 igamma igammac
im2col imag index index_add index_add_ index_copy index_copy_ index_fill index_fill_ index_put index_put_ index_reduce
index_select inner instance_norm inverse isclose isfinite isin isinf isnan isneginf isposinf isreal istft
kaiser_window kron kthvalue layer_norm lcm ldexp le le_ leaky_relu leaky_relu_ lerp lerp_ less less_equal lgamma
lift_fresh lift_fresh_copy linalg_cholesky linalg_cross linalg_det linalg_diagonal linalg_eigh linalg_eigvalsh
linalg_inv linalg_lstsq linalg_matmul linalg_matrix_exp linalg_matrix_norm linalg_matrix_power linalg_multi_dot
linalg_norm linalg_pinv linalg_qr linalg_slogdet linalg_solve linalg_solve_triangular linalg_svd linalg_svdvals
linalg_vecdot linalg_vector_norm linear linspace log log10 log10_ log1p log1p_ log2 log2_ log_ log_sigmoid log_softmax
logaddexp logaddexp2 logcumsumexp logdet logical_and logical_and_ logical_not logical_not_ logical_or logical_or_
logical_xor logical_xor_ logit logit_ logspace logsumexp lstm lstm_cell lt lt_ mH mT masked_fill masked_fill_
masked_scatter masked_scatter_ masked_select matmul matrix_H matrix_exp matrix_power max max_pool1d
max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool2d
max_unpool3d maximum mean median meshgrid min minimum mish mish_ mm mode moveaxis movedim msort mul mul_ multinomial
multiply multiply_ mv mvlgamma nan_to_num nan_to_num_ nanmean nanmedian nansum narrow ne ne_ neg neg_ negative
negative_ new_empty new_full new_ones new_zeros nonzero nonzero_numpy norm norm_except_dim normal normal_ not_equal
nuclear_norm numpy_T one_hot ones ones_like outer pad pairwise_distance permute pinverse pixel_shuffle pixel_unshuffle
polar polygamma positive pow pow_ prelu prod rad2deg rad2deg_ rand rand_like randint randint_like randn randn_like
randperm ravel real reciprocal reciprocal_ reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 relu6_ relu_
remainder remainder_ renorm repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape
reshape_as resolve_conj resolve_neg rms_norm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell roll rot90 round round_
rrelu rrelu_ rsqrt rsqrt_ rsub scalar_tensor scaled_dot_product_attention scatter scatter_ scatter_add scatter_add_
scatter_reduce scatter_reduce_ searchsorted select select_scatter selu selu_ sgn sgn_ sigmoid sigmoid_ sign sign_
signbit silu silu_ sin sin_ sinc sinc_ sinh sinh_ slice slice_scatter softmax softplus softshrink sort special_digamma
special_entr special_erf special_erfc special_erfcx special_erfinv special_exp2 special_expit special_expm1
special_gammaln special_i0e special_i1 special_i1e special_log1p special_log_ndtr special_log_softmax special_logit
special_logsumexp special_ndtr special_ndtri special_polygamma special_sinc special_softmax special_xlog1py
special_xlogy split split_with_sizes sqrt sqrt_ square square_ squeeze squeeze_ stack std std_mean stft sub sub_
subtract subtract_ sum sum_to_size svd swapaxes swapaxes_ swapdims swapdims_ t t_ take take_along_dim tan tan_ tanh
tanh_ tensor_split tensordot threshold threshold_ tile to topk trace transpose transpose_ trapezoid trapz tril tril_
tril_indices triu triu_ triu_indices true_divide true_divide_ trunc trunc_ type_as unbind unflatten unfold uniform_
unique_consecutive unique_dim unsqueeze unsqueeze_ upsample_bicubic2d upsample_bilinear2d upsample_linear1d
upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d vander var var_mean vdot view view_as
view_as_complex view_as_real vsplit vstack where xlogy xlogy_ zero_ zeros zeros_like
"""
_TENSORS = frozenset(_ATEN.split())
_NUMBERS = frozenset(("sym_size", "sym_numel", "sym_stride", "item", "equal", "is_nonzero"))  # these answer numbers

# What torch.export writes for Python's arithmetic with sizes, and what computes it where sizes are plain numbers.
_ARITHMETIC: dict[Callable[..., Any], Callable[..., Any]] = {
    **{
        getattr(operator, name): getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "mod", "truediv")
    },
    **{
        getattr(operator, name): getattr(operator, name)
        for name in (
            *("add", "sub", "mul", "floordiv", "mod", "truediv", "neg", "pos"),
            *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_"),
        )
    },
    torch.sym_max: max,
    torch.sym_min: min,
    torch.sym_not: operator.not_,
    torch.sym_int: int,
    torch.sym_float: float,
    math.ceil: math.ceil,
    math.floor: math.floor,
    math.trunc: math.trunc,
}


def _of_numbers(compute: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*numbers: Any) -> Any:
        if wrong := [type(one).__name__ for one in numbers if type(one) not in (int, float, bool)]:
            raise TypeError(f"{compute.__name__}: expected numbers, got {', '.join(wrong)}")
        return compute(*numbers)

    return checked


def _item(values: Any, index: Any) -> Any:
    if type(values) not in (list, tuple) or type(index) is not int:
        raise TypeError(f"getitem: expected a list and a place in it, got {type(values).__name__}")
    return values[index]


_BY_NAME: dict[str, Callable[..., Any]] = {
    "getitem": _item,
    **{exported.__name__: _of_numbers(compute) for exported, compute in _ARITHMETIC.items()},
}


def _bags(compute: Callable[..., Any]) -> Callable[..., Any]:
    """torch's own embedding_bag ends the process where a bag begins outside of the indices."""

    def checked(weight: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, *rest: Any, **named: Any) -> Any:
        within = (offsets >= 0) & (offsets <= indices.numel())
        if not (bool(within.all()) and bool((offsets.diff() >= 0).all())):
            raise ValueError("embedding_bag: expected offsets in order and within the indices")
        return compute(weight, indices, offsets, *rest, **named)

    return checked


def name_of(target: Any) -> str:
    """What a champion's file calls a call_function of torch.export. Raises LookupError for what it may not hold."""
    known = target is operator.getitem or (callable(target) and target in _ARITHMETIC)
    name = target.__name__ if known else str(target)
    find(name)
    return name


def find(name: str) -> Callable[..., Any]:
    """The operator of that name: `aten.linear.default`, or `mul`. Raises LookupError where none is allowed."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    namespace, _, rest = name.partition(".")
    base, _, overload = rest.partition(".")
    if namespace == "aten" and (base in _TENSORS or base in _NUMBERS):
        packet = getattr(torch.ops.aten, base)
        if overload in packet.overloads():
            found: Callable[..., Any] = getattr(packet, overload)
            schema = found._schema  # type: ignore[attr-defined]
            answers = [str(one.type) for one in schema.returns]
            plain = answers and all("Tensor" in one for one in answers) and not any(a.is_out for a in schema.arguments)
            if plain or base in _NUMBERS:
                return _bags(found) if base == "embedding_bag" else found
    raise LookupError(f"the operator {name[:80]!r} is none that a champion may hold")
