"""The downloader against a real HTTP server on this machine, on good days and on bad ones."""

import contextlib
import hashlib
import io
import os
import socket
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from shared.data import download
from shared.data.download import download_uci_har, fetch_file
from shared.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
INNER_NAME = "UCI HAR Dataset.zip"


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, content in files.items():
            target.writestr(name, content)
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


INNER = zip_of({"noise": np.random.default_rng(0).bytes(600_000)})
OUTER = zip_of({"names.txt": b"x", INNER_NAME: INNER})
SUMS = (sha256(OUTER), sha256(INNER))


class Server(ThreadingHTTPServer):
    """Serves ``content``; the fields are the faults it can have.

    ``cut`` ends the body after so many bytes, ``ranges`` says whether Range is honoured, ``offset`` makes the
    server send another range than it was asked for, ``status`` refuses, ``length`` says how long the body is.
    """

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.cut: int | None = None
        self.ranges = True
        self.offset = 0
        self.status = 200
        self.length = True
        self.location: str | None = None
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/uci.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if server.status != 200:
            self.send_response(server.status)
            if server.location is not None:
                self.send_header("Location", server.location)
            self.end_headers()
            return
        start = 0
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) + server.offset
            if start >= len(server.content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        body = server.content[start:]
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # a client that does not like the range hangs up
            self.wfile.write(body if server.cut is None else body[: server.cut])

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server(OUTER)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "cache" / INNER_NAME


def partial_of(target: Path) -> Path:
    return target.with_name(f"{INNER_NAME}.part")


def left_behind(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_a_good_download_is_put_in_place(server, target):
    download_uci_har(target, server.url, *SUMS)
    assert target.read_bytes() == INNER
    assert left_behind(target) == [INNER_NAME]
    assert server.asked == [None]


def test_what_is_there_already_is_not_fetched_again(server, target):
    download_uci_har(target, server.url, *SUMS)
    download_uci_har(target, server.url, *SUMS)
    assert len(server.asked) == 1


def test_a_wrong_file_in_its_place_is_replaced(server, target):
    target.parent.mkdir()
    target.write_bytes(b"something else")
    download_uci_har(target, server.url, *SUMS)
    assert target.read_bytes() == INNER


def test_a_lost_connection_is_resumed_where_it_stopped(server, target):
    server.cut = 200_000
    with pytest.raises(UserError, match=rf"ended early: expected {len(OUTER)} bytes, found 200000; they are kept"):
        download_uci_har(target, server.url, *SUMS)
    assert left_behind(target) == [partial_of(target).name]
    assert partial_of(target).read_bytes() == OUTER[:200_000]
    with pytest.raises(UserError, match=rf"expected {len(OUTER)} bytes, found 400000"):
        download_uci_har(target, server.url, *SUMS)
    server.cut = None
    download_uci_har(target, server.url, *SUMS)
    assert server.asked == [None, "bytes=200000-", "bytes=400000-"]
    assert target.read_bytes() == INNER
    assert left_behind(target) == [INNER_NAME]


def test_a_server_that_ignores_ranges_is_read_from_the_start(server, target):
    server.cut = 200_000
    with pytest.raises(UserError, match="ended early"):
        download_uci_har(target, server.url, *SUMS)
    server.cut, server.ranges = None, False
    download_uci_har(target, server.url, *SUMS)
    assert server.asked == [None, "bytes=200000-"]
    assert target.read_bytes() == INNER


def test_a_server_without_lengths_is_checked_by_the_sum(server, target):
    server.length = False
    download_uci_har(target, server.url, *SUMS)
    assert target.read_bytes() == INNER
    target.unlink()
    server.cut = 1000
    with pytest.raises(UserError, match=f"expected {SUMS[0]}, found {sha256(OUTER[:1000])}"):
        download_uci_har(target, server.url, *SUMS)
    assert left_behind(target) == []


def test_a_whole_partial_file_only_needs_to_be_checked(server, target):
    target.parent.mkdir()
    partial_of(target).write_bytes(OUTER)
    download_uci_har(target, server.url, *SUMS)
    assert server.asked == [f"bytes={len(OUTER)}-"]
    assert target.read_bytes() == INNER


def test_another_range_than_asked_for_is_refused(server, target):
    target.parent.mkdir()
    partial_of(target).write_bytes(OUTER[:1000])
    server.offset = 5
    with pytest.raises(UserError, match=r"expected the bytes from 1000 on, found bytes 1005-"):
        download_uci_har(target, server.url, *SUMS)
    assert partial_of(target).read_bytes() == OUTER[:1000]


@pytest.mark.parametrize("start", [b"", b"wrong" * 100, b"x" * (len(OUTER) + 7)])
def test_wrong_bytes_are_removed(start, server, target):
    target.parent.mkdir()
    if start:
        partial_of(target).write_bytes(start)
    else:
        server.content = OUTER[:-1] + b"!"
    with pytest.raises(
        UserError, match=rf"SHA-256 of the file .*expected {SUMS[0]}, found [0-9a-f]{{64}}; it was removed"
    ):
        download_uci_har(target, server.url, *SUMS)
    assert left_behind(target) == []


def test_a_wrong_zip_within_the_zip_is_removed(server, target):
    other = zip_of({"noise": b"other"})
    server.content = zip_of({INNER_NAME: other})
    with pytest.raises(UserError, match=f"{INNER_NAME} in the file .*expected {SUMS[1]}, found {sha256(other)}"):
        download_uci_har(target, server.url, sha256(server.content), SUMS[1])
    assert left_behind(target) == []


def test_a_zip_without_the_zip_is_removed(server, target):
    server.content = zip_of({"names.txt": b"x"})
    with pytest.raises(UserError, match=f"expected '{INNER_NAME}' in the zip"):
        download_uci_har(target, server.url, sha256(server.content), SUMS[1])
    assert left_behind(target) == []


@pytest.mark.parametrize(("status", "words"), [(404, "404 Not Found"), (503, "503 Service Unavailable")])
def test_a_server_that_refuses_is_quoted_and_what_is_held_is_kept(status, words, server, target):
    target.parent.mkdir()
    partial_of(target).write_bytes(OUTER[:1000])
    server.status = status
    with pytest.raises(UserError, match=f"cannot download {server.url}: the server answered {words}"):
        download_uci_har(target, server.url, *SUMS)
    assert partial_of(target).read_bytes() == OUTER[:1000]


def test_no_server(target, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(UserError, match=r"cannot download .*Connection refused; check the connection"):
        download_uci_har(target, f"http://127.0.0.1:{port}/x.zip", *SUMS)
    assert not target.parent.exists()


def test_a_silent_server_is_given_up(target, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(UserError, match="timed out"):
            download_uci_har(target, f"http://127.0.0.1:{silent.getsockname()[1]}/x.zip", *SUMS)


@pytest.mark.parametrize("url", ["ftp://example.org/a.zip", "file:///etc/hostname", "a.zip"])
def test_other_addresses_are_refused(url, target):
    with pytest.raises(UserError, match="expected an http or https address"):
        fetch_file(url, target)


@pytest.mark.parametrize("location", ["file:///etc/hostname", "ftp://127.0.0.1:1/a.zip"])
def test_a_redirect_leads_to_no_other_kind_of_address(location, server, target):
    server.status, server.location = 302, location
    with pytest.raises(UserError, match="cannot download"):
        fetch_file(server.url, target)
    assert not target.exists()


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write"):
        download_uci_har(tmp_path / "file" / INNER_NAME, server.url, *SUMS)


def test_the_command_line_downloads_what_the_loader_then_finds(server, uci_har_zip, tmp_path):
    inner = uci_har_zip.read_bytes()
    server.content = zip_of({INNER_NAME: inner})
    environment = os.environ | {"FEDHAR_CACHE": str(tmp_path), "FEDHAR_UCI_HAR": "", "COLUMNS": "120"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "shared.data", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    sums = ("--outer-sha256", sha256(server.content), "--inner-sha256", sha256(inner))
    fetched = run("download", "uci_har", "--url", server.url, *sums)
    assert fetched.returncode == 0, fetched.stderr
    assert str(tmp_path / "uci_har" / INNER_NAME) in fetched.stdout
    shown = run("info", "uci_har")
    assert shown.returncode == 0, shown.stderr
    assert "7352 training and 2947 test windows" in shown.stdout

    again = run("download", "uci_har", "--url", f"{server.url}/elsewhere")
    assert again.returncode == 2
    assert f"expected {download.OUTER_SHA256}, found {sha256(server.content)}" in again.stderr
