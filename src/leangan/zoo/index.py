"""Download one file from a package index without running anything of it.

The index is read by the standards: HTML (PEP 503) or JSON (PEP 691), from the addresses, with the
certificates and the proxy that pip is set to.
"""

from __future__ import annotations

import ast
import base64
import json
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit

from leangan.errors import LeanganError
from leangan.zoo.entries import Entry

_ACCEPT = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, "
    "text/html;q=0.1"
)
_LARGEST_PAGE = 64 * 2**20


@dataclass(frozen=True)
class PipSettings:
    """What pip is set to, from its files and the environment."""

    indexes: tuple[str, ...] = ("https://pypi.org/simple",)
    certificate: str | None = None
    proxy: str | None = None
    timeout: float = 15.0


def pip_settings() -> PipSettings:
    """Ask pip for its settings; its defaults where there is no pip."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    sections: dict[str, dict[str, str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        try:
            sections.setdefault(section, {})[name] = str(ast.literal_eval(value))
        except (ValueError, SyntaxError):
            continue  # a value of several lines that pip does not quote
    merged: dict[str, str] = {}
    for section in ("global", "download", ":env:"):
        merged |= sections.get(section, {})
    first = merged.get("index-url", PipSettings.indexes[0])
    return PipSettings(
        indexes=(first, *merged.get("extra-index-url", "").split()),
        certificate=merged.get("cert"),
        proxy=merged.get("proxy"),
        timeout=float(merged.get("timeout", merged.get("default-timeout", PipSettings.timeout))),
    )


def download(entry: Entry, folder: Path) -> Path:
    """Bring `entry.file` into `folder`; its hash is checked by whoever asked.

    Raises:
        LeanganError: no index has it, or none can be reached.
    """
    settings = pip_settings()
    opener = _opener(settings)
    reasons = []
    for index in settings.indexes:
        try:
            address = _find(opener, index, entry, settings.timeout)
            if address is None:
                reasons.append(f"{_shown(index)} has no {entry.file}")
                continue
            path = folder / entry.file
            with _open(opener, address, settings.timeout) as response, path.open("wb") as file:
                shutil.copyfileobj(response, file, 2**20)
            return path
        except (OSError, ValueError, LookupError) as error:  # URLError is an OSError
            reason = getattr(error, "reason", None) or error
            reasons.append(f"{_shown(index)}: {reason}")
    raise LeanganError(
        f"zoo:{entry.name} needs {entry.file}, which could not be downloaded "
        f"({'; '.join(reasons)}). Check the network and pip's index settings (pip config list)."
    )


def _opener(settings: PipSettings) -> urllib.request.OpenerDirector:
    context = ssl.create_default_context(cafile=settings.certificate)
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
    if settings.proxy:
        proxies = {"http": settings.proxy, "https": settings.proxy}
        handlers.append(urllib.request.ProxyHandler(proxies))
    return urllib.request.build_opener(*handlers)


def _open(opener: urllib.request.OpenerDirector, address: str, timeout: float) -> Any:
    """Open an address; a name and password in it are sent as such."""
    parts = urlsplit(address)
    if parts.scheme not in ("https", "http", "file"):
        raise ValueError(f"{parts.scheme}: is no address to download from")
    headers = {"Accept": _ACCEPT}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        host = parts.netloc.rpartition("@")[2]
        address = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    return opener.open(urllib.request.Request(address, headers=headers), timeout=timeout)


def _find(
    opener: urllib.request.OpenerDirector, index: str, entry: Entry, timeout: float
) -> str | None:
    """The address of `entry.file` on one index, None where it has no such file."""
    page = f"{index.rstrip('/')}/{entry.package}/"
    local = urlsplit(page).scheme == "file"
    try:
        with _open(opener, page + "index.html" if local else page, timeout) as response:
            text = response.read(_LARGEST_PAGE).decode("utf-8", "replace")
            is_json = "json" in (response.headers.get_content_type() or "")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    except urllib.error.URLError:
        if local:
            return None
        raise
    if is_json:
        links = {f["filename"]: f["url"] for f in json.loads(text)["files"]}
    else:
        links = _links(text)
    if entry.file not in links:
        return None
    address = urljoin(page, urldefrag(links[entry.file]).url)
    if urlsplit(address).scheme == "file" and not local:
        raise ValueError("a remote index points at a local file")
    return _with_login(address, page)


def _with_login(address: str, page: str) -> str:
    """The address, with the index's own login where it lies on the same host."""
    there, here = urlsplit(address), urlsplit(page)
    if here.username is None or there.username is not None or there.hostname != here.hostname:
        return address
    login = here.netloc.rpartition("@")[0]
    return urlunsplit(there._replace(netloc=f"{login}@{there.netloc}"))


def _shown(address: str) -> str:
    """The address without a password in it."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _links(page: str) -> dict[str, str]:
    """File name to address, from the anchors of an HTML page."""
    parser = _Anchors()
    parser.feed(page)
    return parser.links


class _Anchors(HTMLParser):
    """Collects the addresses that a page links to, by the name of their file."""

    def __init__(self) -> None:
        super().__init__()
        self.links: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take one anchor."""
        href = dict(attrs).get("href")
        if tag == "a" and href:
            self.links[unquote(urlsplit(href).path.rpartition("/")[2])] = href
