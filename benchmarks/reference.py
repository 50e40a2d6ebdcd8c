"""The reference work's search space: what whole studies and idle ones have in common."""

SPACE = {
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "batch_size": {"type": "choice", "values": [32, 64, 128]},
    "depth": {"type": "int", "low": 1, "high": 3},
    "width": {"type": "choice", "values": [32, 64, 128]},
    "dropout": {"type": "float", "low": 0.0, "high": 0.5},
    "optimizer": {"type": "choice", "values": ["sgd", "adam"]},
}
