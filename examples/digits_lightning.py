"""A small network on scikit-learn's digits, trained by Lightning: the trial of digits-lightning.yaml."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tuner
from tuner.integrations.lightning import TunerCallback

Batch = tuple[torch.Tensor, torch.Tensor]


class Digits(LightningModule):
    def __init__(self, width: int, dropout: float, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 10))

    def training_step(self, batch: Batch, _index: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, _index: int) -> None:
        scores = self.net(batch[0])
        self.log("val/loss", nn.functional.cross_entropy(scores, batch[1]))
        self.log("val/accuracy", (scores.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.learning_rate)


def data() -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    images, labels = load_digits(return_X_y=True)
    rows = train_test_split(images.astype("float32") / 16, labels, test_size=0.25, random_state=0)
    x, x_val, y, y_val = map(torch.from_numpy, rows)
    return DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True), DataLoader(TensorDataset(x_val, y_val), 512)


def train(trial: tuner.TrialContext) -> None:
    callback = TunerCallback(trial)
    trainer = Trainer(
        max_epochs=trial.epochs,
        callbacks=[callback],
        default_root_dir=trial.folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Digits(**trial.params), *data(), ckpt_path=callback.checkpoint)


if __name__ == "__main__":
    train(tuner.current_trial({"width": 64, "dropout": 0.2, "learning_rate": 0.003}, epochs=8))
