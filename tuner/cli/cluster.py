"""The verb that hands a study over to a Ray cluster; `logs`, `status` and `stop` ask here for --cluster.

As the command line does with its own, it reads arguments, calls one function for each verb and prints what it
returns; nothing heavy is imported until a verb needs it.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tuner.cli.arguments import AcceptCode, Cluster, Format, Name, Overrides, StudyFile, Trials
from tuner.errors import InputError, TunerError
from tuner.terminal.tables import Output, print_rows

Needed = Annotated[str, typer.Option("--cluster", envvar="TUNER_CLUSTER", help="Ray's dashboard, host:8265 as a rule.")]


def submit(
    file: StudyFile,
    *,
    cluster: Needed,
    name: Name = None,
    trials: Trials = None,
    overrides: Overrides = None,
    accept_code: AcceptCode = False,
) -> None:
    """Submit a study to a Ray cluster.

    It runs on without this machine; submitted again it resumes."""
    from tuner.cli.cluster_jobs import Cluster as Jobs
    from tuner.spec import StudySpec

    told = list(overrides or ())
    executor = StudySpec.read(file, overrides=told, name=name, trials=trials).run.executor
    # As the cluster will read it, so that what it would refuse is told here.
    told += [f"run.executor={executor if executor != 'local' else 'ray'}", "run.address=auto"]
    spec = StudySpec.read(file, overrides=told, name=name, trials=trials)
    given = [word for override in told for word in ("--set", override)]
    given += [] if name is None else ["--name", name]
    given += [] if trials is None else ["--trials", str(trials)]
    given += ["--accept-code"] if accept_code else []
    jobs = Jobs(cluster)
    job = jobs.submit(spec, file, given)
    where = f"--cluster {cluster}"
    typer.echo(f"study {spec.study} is handed over to {jobs.address} as job {job.number}", err=True)
    typer.echo(
        f"  tuner logs {spec.study} -f {where}    tuner status {where}    tuner stop {spec.study} {where}", err=True
    )


def logs(study: str, cluster: str, *, follow: bool) -> None:
    """What `tuner logs --cluster` prints: what the study's driver says there."""
    from tuner.cli.cluster_jobs import Cluster as Jobs

    jobs = Jobs(cluster)
    for piece in jobs.log(jobs.latest(study), follow=follow):
        sys.stdout.write(piece)
        sys.stdout.flush()
    job = jobs.latest(study)
    if follow and job.state != "SUCCEEDED":
        raise TunerError(f"job {job.number} is {job.state.lower()}: {job.message}")


def status(study: str | None, cluster: Cluster, output: Format) -> None:
    """What `tuner status --cluster` prints: a line for every hand-over."""
    from tuner.cli.cluster_jobs import Cluster as Jobs
    from tuner.cli.cluster_jobs import lines

    rows = lines(Jobs(str(cluster)).jobs(study))
    if not rows and output is Output.TABLE:
        typer.echo(f"no studies on {cluster}", err=True)
    else:
        print_rows(rows, output, rows)


def stop(study: str, cluster: Cluster) -> None:
    """What `tuner stop --cluster` does."""
    from tuner.cli.cluster_jobs import Cluster as Jobs

    jobs = Jobs(str(cluster))
    job = jobs.latest(study)
    if job.ended:
        raise InputError(f"study {study} is not running on {jobs.address}: its job is {job.state.lower()}")
    typer.echo(f"stopping study {study} on {jobs.address} (job {job.number})", err=True)
    jobs.stop(job)
    typer.echo(f"stopped; `tuner submit` with its file goes on with {study}", err=True)
