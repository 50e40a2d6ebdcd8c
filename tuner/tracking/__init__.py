"""Tracking: what MLflow shows of a study, written behind the training from the ledger, in a process of its own.

`mirror` works out what is to be shown, `store` opens a place for it, `tracker` writes it, run by run through MLflow's
client (`sink`) or in bulk (`bulk`), `registry` its champion, `removal` takes it away (these six alone import mlflow),
`follow` is the process, `writer` that process as a driver has it, `dashboard` opens MLflow's pages. Training never
waits for any of it.
"""
