"""Tracking: what MLflow shows of a study, written behind the training from the ledger, in a process of its own.

`mirror` works out what is to be shown, `tracker` writes it (and alone imports mlflow), `follow` is the process,
`dashboard` opens MLflow's pages. Nothing here is ever waited for by training.
"""
