"""This machine is asked without a proxy, and a store of the home's own is the home's, whatever the environment says."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request

import pytest

from tuner import champion
from tuner.tracking import dashboard, model_registry, rest

NOBODY = "http://127.0.0.1:9"  # the port of a protocol that no machine serves any more


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that answers everything, and what it was asked."""
    seen: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"answer": 42}')

        def log_message(self, *_: object) -> None:
            pass

    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()


def test_a_server_on_this_machine_is_asked_directly(
    asked: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", NOBODY)
    address, _ = asked
    for host in (address, address.replace("127.0.0.1", "localhost")):
        assert rest.get(f"http://{host}", "x", 30) == {"answer": 42}


def test_the_dashboard_that_has_started_is_found_behind_a_proxy(
    asked: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("http_proxy", NOBODY)
    monkeypatch.setattr(dashboard, "_START_SECONDS", 30)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        dashboard._await(process, int(asked[0].rpartition(":")[2]), tmp_path / "log")
    finally:
        process.kill()
        process.communicate()
    assert asked[1] == ["/health"]


def test_a_server_elsewhere_is_asked_through_the_proxy(
    asked: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{asked[0]}")
    with rest.ask(Request("http://mlflow.invalid/health"), 30) as answer:
        assert json.load(answer) == {"answer": 42}
    assert asked[1] == ["http://mlflow.invalid/health"]


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_what_this_machine_is_called(host: str, here: bool) -> None:
    assert rest.is_loopback(host) == here


@pytest.mark.parametrize("before", [{}, {"no_proxy": "a.example"}, {"NO_PROXY": "a.example"}, {"no_proxy": "*"}])
def test_other_clients_spare_this_machine_too(before: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from requests.utils import get_environ_proxies

    environment = {"http_proxy": NOBODY, **before}
    rest.spare_loopback(environment)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for host in ("127.0.0.1:5000", "localhost:5000", "[::1]:5000"):
        assert not get_environ_proxies(f"http://{host}/")
    elsewhere = get_environ_proxies("http://b.example/")
    assert bool(elsewhere) == ("*" not in before.values())
    if "*" not in before.values():
        assert bool(get_environ_proxies("http://a.example/")) == (not before)


def test_the_process_that_writes_spares_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from tuner.tracking import process as follow

    spared: list[bool] = []
    monkeypatch.setattr(follow, "spare_loopback", lambda _: spared.append(True))
    with pytest.raises(SystemExit):
        follow.main(["--help"])
    assert spared == [True]


def test_a_store_of_the_homes_own_keeps_models_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tuner.tracking.sqlite_store import close, connect

    for name in ("MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_STORE_URI"):
        monkeypatch.setenv(name, f"sqlite:///{tmp_path / 'companys.db'}")
    uri = dashboard.sqlite_uri(tmp_path / "home" / "mlflow.db")
    client = connect(uri)
    try:
        client.create_registered_model("small")
        assert [model.name for model in client.search_registered_models()] == ["small"]
        assert not (tmp_path / "companys.db").exists()
    finally:
        close()
    line = dashboard._server_command(uri, str(tmp_path), 5000)
    assert line[line.index("--registry-store-uri") + 1] == uri


def test_a_model_is_the_same_when_mlflow_makes_its_map_of_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.pyfunc
    from mlflow.utils import requirements_utils

    saved, maps = [], []
    for name in (model_registry._MAP, "_NO_SUCH_MAP"):
        monkeypatch.setattr(requirements_utils, "_MODULES_TO_PACKAGES", None)
        monkeypatch.setattr(requirements_utils, "_PACKAGES_TO_MODULES", None)
        monkeypatch.setattr(model_registry, "_MAP", name)
        path = tmp_path / name
        requirements = model_registry._requirements()
        mlflow.pyfunc.save_model(path, loader_module=champion.__name__, pip_requirements=requirements)
        maps.append(requirements_utils._MODULES_TO_PACKAGES)
        saved.append([(path / file).read_text() for file in ("requirements.txt", "python_env.yaml", "conda.yaml")])
    assert saved[0] == saved[1]
    assert maps[0] == {} and "torch" in maps[1]


@pytest.mark.parametrize("absent", ["map", "module"])
def test_requirements_do_without_mlflows_map_of_packages(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.utils import requirements_utils

    expected = model_registry._requirements()
    if absent == "map":
        monkeypatch.delattr(requirements_utils, model_registry._MAP)
        assert model_registry._requirements() == expected
        assert not hasattr(requirements_utils, model_registry._MAP)
    else:
        monkeypatch.delattr("mlflow.utils.requirements_utils")
        monkeypatch.setitem(sys.modules, "mlflow.utils.requirements_utils", None)
        assert model_registry._requirements() == expected
    assert [line.partition("==")[0] for line in expected] == ["torch", "safetensors", "numpy", "pandas"]
