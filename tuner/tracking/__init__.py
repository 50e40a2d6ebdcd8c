"""Tracking: what MLflow shows of a study, written behind the training from the ledger, in a process of its own.

`projection` works out what is to be shown. `sqlite_store` opens a store for it, `sync` writes it, run by run through
MLflow's client (`client_writer`) or in bulk (`sql_writer`), `model_registry` its champion, `removal` takes it away:
these six alone import mlflow. `process` is the process, `writer` that process as a driver has it, `dashboard` opens
MLflow's pages. Training never waits for any of it.
"""
