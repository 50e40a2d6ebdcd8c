"""One question to an MLflow server, without MLflow's client, whose import takes 2 s.

Knows who we are to a server, as that client does: the environment's user and password, else those in
~/.mlflow/credentials, else the environment's token; and what a server means that refuses us. Must never know what is
asked, nor write anything.
"""

from __future__ import annotations

import base64
import configparser
import ipaddress
import json
import os
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from tuner.errors import TunerError

USER, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LONGEST = 10_000  # bytes of a refusal that are read


class Refused(TunerError):
    """A server answers, but not us. `found` says what it answered, `remedy` what to do."""

    def __init__(self, found: str, remedy: str) -> None:
        self.found, self.remedy = found, remedy
        super().__init__(f"{found}; {remedy}")


def get(base: str, path: str, seconds: float, **query: Any) -> dict[str, Any]:
    """What the server at `base`, an http(s) address, says to a GET of its REST interface.

    Raises Refused where it answers 401 or 403, HTTPError where it answers with another error, another OSError where
    it does not answer, ValueError where what it says is not MLflow's.
    """
    request = Request(f"{base.rstrip('/')}/api/2.0/mlflow/{path}?{urlencode(query)}")  # noqa: S310 # see above
    if (who := _identity()) is not None:
        request.add_unredirected_header("Authorization", who[1])  # for this server alone
    try:
        with ask(request, seconds) as answer:
            found = json.load(answer)
    except HTTPError as error:
        words = error.read(_LONGEST).decode(errors="replace")
        if (remedy := remedy_for(error.code, words)) is not None:
            raise Refused(f"it answers {error.code}", remedy) from None
        raise
    if not isinstance(found, dict):
        raise ValueError(f"expected an object, got {type(found).__name__}")  # noqa: TRY004 # said by a server
    return found


def ask(request: Request, seconds: float) -> Any:
    """The answer to a request, through the environment's proxy unless it is to this machine. Raises as `urlopen`."""
    proxies = ProxyHandler({}) if is_loopback(urlsplit(request.full_url).hostname or "") else ProxyHandler()
    return build_opener(proxies).open(request, timeout=seconds)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, which no proxy can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def spare_loopback(environment: MutableMapping[str, str]) -> None:
    """Have other libraries' clients in a process of this environment ask this machine without a proxy, too."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [host for host in environment.get(name, environment.get(name.swapcase(), "")).split(",") if host]
        if "*" not in hosts:
            environment[name] = ",".join(dict.fromkeys((*hosts, *_LOOPBACK)))


def remedy_for(code: int, words: str) -> str | None:
    """What to do about a server that answers with this HTTP status and says this; None where it is no refusal."""
    if code == 401:
        who = _identity()
        known = f" to what it knows: it does not accept {who[0]}" if who else " in the environment"
        return f"set {USER} and {PASSWORD}, or {TOKEN},{known}"
    if code == 403 and "Invalid Host header" in words:  # MLflow's guard against foreign names
        return "start it with --allowed-hosts naming host and port as they are written here"
    if code == 403:
        who = _identity()
        return f"have {who[0] if who else 'whoever asks'} granted what is asked there, or set another {USER}"
    return None


def _identity() -> tuple[str, str] | None:
    """Who we are, for a person, and the value of the header that says so to a server."""
    file = configparser.ConfigParser(interpolation=None)
    with suppress(configparser.Error, UnicodeDecodeError):  # one that cannot be read says nothing
        file.read(Path("~/.mlflow/credentials").expanduser())
    written: Mapping[str, str] = dict(file.items("mlflow")) if file.has_section("mlflow") else {}
    user, password = (os.environ.get(name) or written.get(name.lower()) for name in (USER, PASSWORD))
    if user and password:
        return f"the user {user}", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    token = os.environ.get(TOKEN)
    return ("this token", f"Bearer {token}") if token else None
