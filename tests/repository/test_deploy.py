"""What we ship for services: a manifest that KubeRay reads, a compose file without a port or password too many."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"


def read(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text())


def test_the_kubernetes_manifest_is_as_its_schema_says() -> None:
    schema = json.loads((KUBERNETES / "rayjob.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    manifest = read(KUBERNETES / "rayjob.yaml")
    assert [error.message for error in validator.iter_errors(manifest)] == []
    manifest["spec"]["rayClusterSpec"]["headGroupSpecs"] = manifest["spec"]["rayClusterSpec"].pop("headGroupSpec")
    assert len(list(validator.iter_errors(manifest))) == 2, "a field that KubeRay does not know, and one that it misses"


def test_the_manifest_names_the_ray_that_is_installed() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert read(KUBERNETES / "rayjob.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == pins["ray"]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = read(ROOT / "docker-compose.yml")["services"]
    return found


def test_what_is_published_listens_on_this_machine_alone(services: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(ports) == {"mlflow", "ray-head"}
    assert all(port.startswith("127.0.0.1:") for several in ports.values() for port in several)


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    secret = re.findall(r"\$\{(\w*(?:PASSWORD|TOKEN|SECRET)\w*)([^}]*)\}", text)
    assert {name for name, _ in secret} >= {"POSTGRES_PASSWORD", "MLFLOW_PASSWORD", "RAY_AUTH_TOKEN"}
    assert all(rest.startswith(":?") for _, rest in secret)


def test_make_secrets_writes_all_that_compose_asks_for_once_and_for_the_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    make = ["make", "--no-print-directory", "secrets"]
    subprocess.run(make, cwd=tmp_path, check=True, capture_output=True)
    file = tmp_path / ".env"
    values = dict(line.split("=", 1) for line in file.read_text().splitlines())
    asked = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()))
    assert set(values) == asked
    assert len(set(values.values())) == len(values)
    assert all(len(value) >= 40 for value in values.values())
    assert file.stat().st_mode & 0o077 == 0
    subprocess.run(make, cwd=tmp_path, check=True, capture_output=True)
    assert dict(line.split("=", 1) for line in file.read_text().splitlines()) == values, "written once"
