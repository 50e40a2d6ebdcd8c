"""Who trains: workers that take cohorts and report epochs, on this machine or on a cluster.

`protocol` holds the messages, `worker` the far side of them, `local` the workers of this machine.
Knows training; never a sampler, a ledger or a tracking server.
"""
