"""How a network is trained: the plain values that the training loop reads, each with its rule.

Fields marked fusible may differ from row to row inside one cohort; the others are structural.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tuner.models.interface import CLASSIFICATION, IMAGE, LANGUAGE, NUMBERS, REGRESSION, SEQUENCE, Setting

# What is measured on a split, by task; a study file names them with the split before, as in val/accuracy.
METRICS = {
    CLASSIFICATION: ("loss", "accuracy", "f1"),
    REGRESSION: ("loss", "rmse", "mae", "r2"),
    LANGUAGE: ("loss", "perplexity", "bits_per_character", "accuracy"),
}
# What is measured as well where a study file asks for it, by `metrics` or as an objective.
FURTHER_METRICS = {
    CLASSIFICATION: (
        "balanced_accuracy",
        "precision",
        "recall",
        "f1_weighted",
        "precision_weighted",
        "recall_weighted",
        "matthews",
        "kappa",
    ),
    REGRESSION: (),
    LANGUAGE: (),
}
LOSSES = ("auto", "cross_entropy", "mse", "huber")
CLASS_WEIGHTS = ("none", "balanced")
OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("constant", "cosine", "step")
_ADAM = ("optimizer", ("adam", "adamw"))
_STEP = ("schedule", ("step",))


@dataclass(frozen=True)
class TrainConfig:
    """Everything about training that a study file's `train:` section or a search space may set."""

    epochs: Annotated[int, Setting("passes over the training rows", low=1, high=100_000, fusible=True)] = 10
    batch_size: Annotated[int, Setting("training rows per step", low=1, high=1_000_000)] = 64
    drop_last: Annotated[bool, Setting("leave out an epoch's last batch where it is smaller than the others")] = False
    loss: Annotated[str, Setting("auto is cross_entropy for classes and text, mse for numbers", choices=LOSSES)] = (
        "auto"
    )
    huber_delta: Annotated[
        float,
        Setting(
            "error, in deviations of the target, beyond which huber is linear",
            above=0.0,
            fusible=True,
            tasks=(REGRESSION,),
            read_by=("loss", ("huber",)),
        ),
    ] = 1.0
    class_weights: Annotated[
        str,
        Setting(
            "balanced weighs a class by rows / (classes · its rows)",
            choices=CLASS_WEIGHTS,
            fusible=True,
            tasks=(CLASSIFICATION,),
        ),
    ] = "none"
    optimizer: Annotated[str, Setting("the update rule, as in torch.optim", choices=OPTIMIZERS, fusible=True)] = "sgd"
    learning_rate: Annotated[float, Setting("step size before the schedule", above=0.0, high=1e3, fusible=True)] = 0.01
    momentum: Annotated[
        float | None,
        Setting(
            "sgd and rmsprop; unset is 0.9 for sgd and 0 for rmsprop",
            low=0.0,
            below=1.0,
            fusible=True,
            read_by=("optimizer", ("sgd", "rmsprop")),
        ),
    ] = None
    nesterov: Annotated[
        bool, Setting("sgd looks ahead along its momentum", fusible=True, read_by=("optimizer", ("sgd",)))
    ] = False
    beta1: Annotated[
        float, Setting("adam's decay of the gradient's mean", low=0.0, below=1.0, fusible=True, read_by=_ADAM)
    ] = 0.9
    beta2: Annotated[
        float, Setting("adam's decay of the squared gradient's mean", low=0.0, below=1.0, fusible=True, read_by=_ADAM)
    ] = 0.999
    alpha: Annotated[
        float,
        Setting(
            "rmsprop's decay of the squared gradient's mean",
            low=0.0,
            below=1.0,
            fusible=True,
            read_by=("optimizer", ("rmsprop",)),
        ),
    ] = 0.99
    epsilon: Annotated[
        float,
        Setting(
            "added to adam's and rmsprop's denominator",
            above=0.0,
            high=1.0,
            fusible=True,
            read_by=("optimizer", ("adam", "adamw", "rmsprop")),
        ),
    ] = 1e-8
    weight_decay: Annotated[float, Setting("L2 penalty; decoupled in adamw", low=0.0, high=1e3, fusible=True)] = 0.0
    l1: Annotated[float, Setting("L1 penalty on every weight", low=0.0, high=1e3, fusible=True)] = 0.0
    gradient_clip: Annotated[float | None, Setting("largest norm of a trial's gradient", above=0.0, fusible=True)] = (
        None
    )
    label_smoothing: Annotated[
        float,
        Setting(
            "share of the target spread over all classes",
            low=0.0,
            high=1.0,
            fusible=True,
            tasks=(CLASSIFICATION, LANGUAGE),
        ),
    ] = 0.0
    schedule: Annotated[str, Setting("how the learning rate changes", choices=SCHEDULES, fusible=True)] = "constant"
    warmup: Annotated[float, Setting("epochs over which the learning rate rises from 0", low=0.0, fusible=True)] = 0.0
    decay_every: Annotated[
        float, Setting("epochs between two drops of the step schedule", above=0.0, fusible=True, read_by=_STEP)
    ] = 10.0
    decay_factor: Annotated[
        float,
        Setting("what a drop of the step schedule multiplies by", above=0.0, high=1.0, fusible=True, read_by=_STEP),
    ] = 0.1
    early_stopping: Annotated[
        int | None, Setting("stop after so many epochs without a better objective", low=1, fusible=True)
    ] = None
    shift: Annotated[
        float, Setting("images: largest random shift, in pixels", low=0.0, fusible=True, modalities=(IMAGE,))
    ] = 0.0
    flip: Annotated[
        float,
        Setting("images: chance of a left-right mirror image", low=0.0, high=1.0, fusible=True, modalities=(IMAGE,)),
    ] = 0.0
    noise: Annotated[
        float,
        Setting(
            "deviation of noise added to the normalised inputs",
            low=0.0,
            fusible=True,
            modalities=(NUMBERS, IMAGE, SEQUENCE),
        ),
    ] = 0.0
    rotation: Annotated[
        float,
        Setting("images: largest random turn, in degrees", low=0.0, high=180.0, fusible=True, modalities=(IMAGE,)),
    ] = 0.0
    cutout: Annotated[
        float,
        Setting(
            "images: side of a blanked square, as a share of the image's",
            low=0.0,
            high=1.0,
            fusible=True,
            modalities=(IMAGE,),
        ),
    ] = 0.0
    time_mask: Annotated[
        float,
        Setting(
            "sequences: share of the steps silenced, one behind the other",
            low=0.0,
            high=1.0,
            fusible=True,
            modalities=(SEQUENCE,),
        ),
    ] = 0.0
