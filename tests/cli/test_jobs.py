"""Studies handed over to a Ray cluster: what goes along, what is refused, and what Ray's answers mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.cli.cluster_jobs import Job, _address, _package, lines
from tuner.errors import InputError
from tuner.spec import StudySpec

STUDY = """\
study: churn
seed: 1
data: {{source: {source}, target: churned}}
model: {{family: "{family}"}}
train: {{epochs: 2}}
search:
  space: {{learning_rate: {{type: float, low: 1.0e-3, high: 1.0e-1, log: true}}}}
  objective: {{metric: val/accuracy, goal: maximize}}
  trials: 2
"""
NETWORK = """\
from torch import nn
class Net(nn.Module):
    def __init__(self, signature):
        super().__init__()
"""


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("head", "http://head:8265"),
        ("10.0.0.5:9000", "http://10.0.0.5:9000"),
        ("http://head:8265/", "http://head:8265"),
        ("https://ray.example.org", "https://ray.example.org:8265"),
    ],
)
def test_a_cluster_is_where_its_dashboard_is(given: str, address: str) -> None:
    assert _address(given) == address


def test_rays_own_client_address_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="the address of Ray's dashboard, host:8265 as a rule, got ray://"):
        _address("ray://head:10001")


def study(folder: Path, source: str, family: str = "net/net.py:Net") -> tuple[StudySpec, Path]:
    (folder / "net").mkdir(exist_ok=True)
    (folder / "net" / "net.py").write_text(NETWORK)
    (folder / "net" / "layers.py").write_text("WIDTH = 4\n")
    (folder / "net" / "notes.txt").write_text("mine\n")
    file = folder / "churn.yaml"
    file.write_text(STUDY.format(source=source, family=family))
    return StudySpec.read(file), file


def test_what_the_file_names_beside_it_goes_along_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "customers.csv").write_text("age,churned\n1,no\n")
    (tmp_path / "secret.txt").write_text("mine\n")
    spec, file = study(tmp_path, "data/customers.csv")
    with _package(spec, file) as folder:
        laid = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert laid == {"churn.yaml", "data/customers.csv", "net/net.py", "net/layers.py"}
        assert (folder / "churn.yaml").read_text() == file.read_text()
    assert not folder.exists()


def test_every_file_of_a_pattern_and_of_a_split_goes_along(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("a.csv", "b.csv", "notes.txt", "test.csv"):
        (tmp_path / "data" / name).write_text("age,churned\n1,no\n")
    _, file = study(tmp_path, "data/?.csv")
    text = file.read_text().replace("target: churned", "target: churned, split: {files: {test: data/test.csv}}")
    file.write_text(text)
    with _package(StudySpec.read(file), file) as folder:
        laid = {path.name for path in (folder / "data").iterdir()}
        assert laid == {"a.csv", "b.csv", "test.csv"}


def test_what_code_needs_beside_it_goes_along(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").write_text("")
    (tmp_path / "own" / "net.py").write_text(NETWORK + "\nSTART = 'start.npy'\n")
    (tmp_path / "own" / "start.npy").write_bytes(b"weights")
    (tmp_path / "rows.py").write_text("from reading.rows import rows")
    (tmp_path / "reading").mkdir()
    (tmp_path / "reading" / "rows.py").write_text("def rows(): ...")
    spec, file = study(tmp_path, "rows.py:rows", "own.net:Net")
    with _package(spec, file) as folder:
        for name in ("own/__init__.py", "own/net.py", "own/start.npy", "rows.py", "reading/rows.py"):
            assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_folder_of_data_goes_as_a_whole_and_an_absolute_path_is_the_clusters_own(tmp_path: Path) -> None:
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    (tmp_path / "pictures" / "cat" / "1.png").write_bytes(b"x")
    spec, file = study(tmp_path, "pictures")
    with _package(spec, file) as folder:
        assert (folder / "pictures" / "cat" / "1.png").read_bytes() == b"x"
    spec, file = study(tmp_path, str(tmp_path / "pictures"))
    with _package(spec, file) as folder:
        assert not (folder / "pictures").exists()


def test_a_path_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "customers.csv").write_text("age,churned\n1,no\n")
    spec, file = study(inner, "../customers.csv")
    wanted = r"data\.source: expected a path inside .*, got \.\./customers\.csv"
    with pytest.raises(InputError, match=wanted), _package(spec, file):
        pass


def test_a_built_in_data_set_and_family_need_no_files(tmp_path: Path) -> None:
    file = tmp_path / "churn.yaml"
    file.write_text(STUDY.format(source="digits", family="mlp").replace(", target: churned", ""))
    with _package(StudySpec.read(file), file) as folder:
        assert [path.name for path in folder.iterdir()] == ["churn.yaml"]


def test_jobs_are_rows_with_their_states_in_small_letters() -> None:
    job = Job("digits-1", "digits", "RUNNING", "", 0.0)
    assert lines([job]) == [{"study": "digits", "state": "running", "job": "digits-1", "message": ""}]
    assert [Job("", "", state, "", 0.0).ended for state in ("PENDING", "RUNNING", "FAILED", "STOPPED")] == [
        False, False, True, True,
    ]  # fmt: skip
