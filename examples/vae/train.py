"""A variational autoencoder of handwritten digits, as a program of its own: `python train.py --lr 1e-3 --latent 8`.

The three lines that end in `# Tuner` make it a trial; without a study they do nothing but print.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

import tuner  # Tuner


class VAE(nn.Module):
    def __init__(self, hidden: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, hidden), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, 64))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(latent), mean, log_variance


def elbo_loss(model: VAE, x: torch.Tensor) -> torch.Tensor:
    """Nats an image: binary cross entropy of the pixels, and the divergence of the code from a normal one."""
    pixels, mean, log_variance = model(x)
    entropy = F.binary_cross_entropy_with_logits(pixels, x, reduction="sum")
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
    return (entropy + divergence) / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(description="VAE on 8 × 8 digits")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--latent", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.tensor(load_digits().data / 16, dtype=torch.float32)
    train, test = random_split(TensorDataset(images), [1500, len(images) - 1500], torch.Generator().manual_seed(0))
    loader = DataLoader(train, batch_size=args.batch_size, shuffle=True)
    held_out = images[test.indices].to(device)
    model = VAE(args.hidden, args.latent).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)

    trial = tuner.current_trial()  # Tuner
    for epoch in range(1, args.epochs + 1):
        model.train()
        total = 0.0
        for (x,) in loader:
            optimizer.zero_grad()
            loss = elbo_loss(model, x.to(device))
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        model.eval()
        with torch.no_grad():
            test_loss = elbo_loss(model, held_out).item()
        print(f"====> epoch {epoch}: train {total / len(train):.2f}, test {test_loss:.2f} nats")
        trial.report({"train/loss": total / len(train), "test/loss": test_loss})  # Tuner
    torch.save(model.state_dict(), "vae.pt")


if __name__ == "__main__":
    main()
