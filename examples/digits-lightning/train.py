"""A small network on scikit-learn's digits, trained by Lightning: `python train.py --width 64`.

The three lines that end in `# Tuner` make it a trial; without a study they do nothing but print.
"""

from __future__ import annotations

import argparse

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tuner.integrations.lightning import TunerCallback  # Tuner

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


def loaders(batch_size: int) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    images, labels = load_digits(return_X_y=True)
    rows = train_test_split(images.astype("float32") / 16, labels, test_size=0.25, random_state=0)
    x, x_val, y, y_val = map(torch.from_numpy, rows)
    return DataLoader(TensorDataset(x, y), batch_size, shuffle=True), DataLoader(TensorDataset(x_val, y_val), 512)


def main() -> None:
    parser = argparse.ArgumentParser(description="8 × 8 digits")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    seed_everything(args.seed)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=args.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=(callback := TunerCallback()),  # Tuner
    )
    trainer.fit(
        Digits(args.width, args.dropout, args.lr),
        *loaders(args.batch_size),
        ckpt_path=callback.checkpoint,  # Tuner
    )


if __name__ == "__main__":
    main()
