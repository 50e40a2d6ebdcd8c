"""The champion among MLflow's models: logged with its signature and an example, registered under its study's name.

Every step is found done, or done again without a trace, so whoever died between any two, the next one goes on. Knows
MLflow's client and the champion's folder. Must never know ledgers, events, nor what else is shown of a study.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from tuner import champion

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

ALIAS = "champion"

_MAP = "_MODULES_TO_PACKAGES"  # MLflow's own, None until it is made

_LONGEST = 5_000  # characters of a version's description, as MLflow's table has it
_NEEDS = ("torch", "safetensors", "numpy", "pandas")
_ABOUT = (
    "The best network of the study **{name}**, a new version each time the best model changes. "
    "To load the last one:\n\n"
    '```python\nmlflow.pyfunc.load_model("models:/{name}@{alias}").predict(data)\n```'
)


def register(
    client: MlflowClient,
    place: Path,
    name: str,
    tags: Mapping[str, str],
    *,
    experiment: str,
    run: str,
    note: str,
    params: Mapping[str, str],
) -> None:
    """Log the champion in the folder `place` to `run`, and register it as `name`, described by `note` and `params`.

    `tags` tell it from every other model: one that has them is it.
    """
    from mlflow.entities import LoggedModelOutput

    same = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    if found := client.search_model_versions(f"name = '{name}' AND {same}"):
        current = min(int(one.version) for one in found)
    else:
        logged = client.search_logged_models([experiment], same)
        described = {**tags, "mlflow.note.content": note}
        model = logged[0] if logged else client.create_logged_model(experiment, ALIAS, run, described, dict(params))
        model = model if model.status == "READY" else _upload(client, model, place)
        outputs = client.get_run(run).outputs
        if model.model_id not in {one.model_id for one in (outputs.model_outputs if outputs else ())}:
            client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])
        made = client.create_model_version(
            _registered(client, name),
            source=model.artifact_location,  # not models:/<id>, which MLflow looks up in the ambient store
            run_id=run,
            tags=dict(tags),
            description=note[:_LONGEST],
            await_creation_for=0,
            model_id=model.model_id,
        )
        current = int(made.version)
    client.set_registered_model_alias(name, ALIAS, str(current))


def rehearse(client: MlflowClient, name: str, experiment: str) -> None:
    """Do what takes longer the first time, and leaves nothing: imports, opening the registry, its questions."""
    import mlflow.pyfunc

    client.search_model_versions(f"name = '{name}' AND tags.`rehearsed` = 'yes'")
    client.search_logged_models([experiment], "tags.`rehearsed` = 'yes'")
    with tempfile.TemporaryDirectory() as draft:
        mlflow.pyfunc.save_model(
            Path(draft, "model"), loader_module=champion.__name__, pip_requirements=_requirements()
        )


def _upload(client: MlflowClient, model: LoggedModel, place: Path) -> LoggedModel:
    """Fill a model with the champion in the folder `place`, its signature and its input example."""
    import mlflow.pyfunc
    from mlflow.models import Model

    inputs, outputs = champion.example(place)
    about = Model(run_id=model.source_run_id, model_id=model.model_id, artifact_path=model.artifact_location)
    with tempfile.TemporaryDirectory() as draft:
        path = Path(draft, "model")
        mlflow.pyfunc.save_model(
            path,
            loader_module=champion.__name__,
            data_path=str(place),
            code_paths=[str(Path(__file__).parents[1])],
            mlflow_model=about,
            signature=_signature(inputs, outputs),
            input_example=inputs,
            pip_requirements=_requirements(),
        )
        client.log_model_artifacts(model.model_id, str(path))
    return client.finalize_logged_model(model.model_id, "READY")


def _requirements() -> list[str]:
    """What a model needs, as it is installed; MLflow's own version is added by MLflow."""
    # MLflow compares these with what is installed, by a map of all that is installed, which takes a quarter of a second
    # to make; without an entry there it asks for each by its name. Where it has no such map, or has made it, it is
    # left to MLflow.
    with suppress(ImportError):
        from mlflow.utils import requirements_utils as memory

        if getattr(memory, _MAP, 0) is None:
            setattr(memory, _MAP, {})
    return [f"{name}=={version(name)}" for name in _NEEDS]


def _signature(inputs: pd.DataFrame | np.ndarray, outputs: pd.DataFrame) -> ModelSignature:
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types.schema import AnyType, ColSpec, Schema

    found = infer_signature(inputs, outputs)
    if not hasattr(inputs, "columns"):
        return found
    anything = AnyType()  # type: ignore[no-untyped-call] # MLflow would refuse whole numbers where it saw fractions
    return ModelSignature(Schema([ColSpec(anything, name) for name in inputs.columns]), found.outputs)


def _registered(client: MlflowClient, name: str) -> str:
    """The registered model of that name, made where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=_ABOUT.format(name=name, alias=ALIAS))
    except MlflowException as problem:
        if problem.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return name
