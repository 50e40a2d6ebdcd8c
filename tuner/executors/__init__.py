"""Who trains: workers that take cohorts and report epochs, on this machine or on a cluster.

`protocol` holds the messages, `worker` the far side of them, `pool` who has which job, `local` the workers of this
machine, `ray_cluster` and `actor` those of a cluster. Knows the seam to workloads; never what is trained, a sampler, a
ledger or a tracking server.
"""
