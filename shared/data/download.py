"""Download of UCI HAR: with progress, resumable, and checked to the last byte before it is put in place."""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from shared.data.archive import open_zip, read_member
from shared.data.uci_har import INNER_ZIP
from shared.errors import UserError
from shared.files import sha256_of, write_atomic

URL = "https://archive.ics.uci.edu/static/public/240/human+activity+recognition+using+smartphones.zip"
OUTER_SHA256 = "c00b803081a5c797cd5e4b83700a9810b38d53d9d84e01917e090e1fdbc81031"
INNER_SHA256 = "2045e435c955214b38145fb5fa00776c72814f01b203fec405152dac7d5bfeb0"
CHUNK = 1 << 18
TIMEOUT = 30.0
"""Seconds without a byte after which the connection counts as lost."""


def download_uci_har(
    target: Path, url: str = URL, outer_sha256: str = OUTER_SHA256, inner_sha256: str = INNER_SHA256
) -> None:
    """Fetch the official zip, check it and the zip within it, and put the latter in place.

    What was fetched before a lost connection is kept beside ``target`` and continued by the next call. Nothing
    is at ``target`` before both checksums are right.

    Args:
        target: Where the inner zip goes; a file there with the right checksum is left as it is.
        url: Address of the outer zip, http or https.
        outer_sha256: Checksum of the outer zip.
        inner_sha256: Checksum of ``UCI HAR Dataset.zip`` within it.

    Raises:
        UserError: Another kind of address, a network failure, or a wrong checksum; what is wrong is removed.
    """
    if target.is_file() and sha256_of(target) == inner_sha256:
        return
    partial = target.with_name(f"{target.name}.part")
    fetch_file(url, partial)
    try:
        _check(sha256_of(partial), outer_sha256, f"the file from {url}")
        with open_zip(partial, str(partial)) as outer:
            inner = read_member(outer, INNER_ZIP, str(partial))
        _check(hashlib.sha256(inner).hexdigest(), inner_sha256, f"{INNER_ZIP} in the file from {url}")
    except UserError:
        partial.unlink()  # all of its bytes are there and they are wrong: to resume it would not help
        raise
    write_atomic(target, inner)
    partial.unlink()


def fetch_file(url: str, partial: Path) -> None:
    """Fetch what ``partial`` does not hold yet of the file at ``url``, showing a progress bar.

    Asks for the rest by an HTTP range; a server that sends the whole file instead is taken at its word.

    Raises:
        UserError: An address that is not http or https, or a failure of the network, of the server or of the
            disk. What has arrived stays in ``partial``.
    """
    if (scheme := urlsplit(url).scheme) not in ("http", "https"):
        raise UserError(f"cannot download {url}: expected an http or https address, found {scheme or 'neither'}")
    held = partial.stat().st_size if partial.exists() else 0
    response = _request(url, held)
    if response is None:
        return
    with response:
        start = held if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        arrived = _save(response, partial, start, total, url)
    if total is not None and arrived < total:
        raise UserError(
            f"the connection to {url} ended early: expected {total} bytes, found {arrived}; they are kept, run "
            "the same command again to continue"
        )


def _request(url: str, held: int) -> http.client.HTTPResponse | None:
    """Ask for the file from byte ``held`` on; None where the server says that there is nothing more."""
    headers = {"User-Agent": "fedhar", "Accept-Encoding": "identity"}
    if held:
        headers["Range"] = f"bytes={held}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (the scheme was checked)
    try:
        response: http.client.HTTPResponse = _web().open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if held and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise UserError(f"cannot download {url}: the server answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _network_error(url, error) from error
    offered = response.headers.get("Content-Range", "")
    if response.status == http.HTTPStatus.PARTIAL_CONTENT and not offered.startswith(f"bytes {held}-"):
        response.close()
        raise UserError(f"cannot resume {url}: expected the bytes from {held} on, found {offered or 'no range'}")
    return response


def _web() -> urllib.request.OpenerDirector:
    """Return an opener that speaks http and https only, so that no redirect leads elsewhere."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _save(response: http.client.HTTPResponse, partial: Path, start: int, total: int | None, url: str) -> int:
    """Write the response to ``partial`` from byte ``start`` on, and return how long the file is then."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    arrived = start
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        with (
            partial.open("ab" if start else "wb") as file,
            Progress(*columns, console=Console(stderr=True)) as progress,
        ):
            task = progress.add_task("", total=total, completed=start)
            for chunk in _chunks(response, url):
                file.write(chunk)
                arrived += len(chunk)
                progress.update(task, completed=arrived)
    except OSError as error:
        raise UserError(f"cannot write {partial}: {error.strerror or error}") from error
    return arrived


def _chunks(response: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    """Yield what arrives; here a failure of the network is kept apart from one of the disk."""
    while True:
        try:
            chunk = response.read(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _network_error(url, error) from error
        if not chunk:
            return
        yield chunk


def _network_error(url: str, error: Exception) -> UserError:
    reason = getattr(error, "reason", None) or error
    return UserError(
        f"cannot download {url}: {reason}; check the connection and run the same command again, it continues "
        "where it stopped"
    )


def _check(found: str, expected: str, what: str) -> None:
    if found != expected:
        raise UserError(f"SHA-256 of {what}: expected {expected}, found {found}; it was removed, try again")
