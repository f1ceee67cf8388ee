"""Atomic writing: whole files or none."""

import os
import re
import stat
from pathlib import Path

import pytest

from shared.errors import UserError
from shared.files import open_atomic, sha256_of, write_atomic, write_together


def test_text_and_bytes_are_written_whole(tmp_path):
    write_atomic(tmp_path / "a" / "b" / "text", "größer\n")
    write_atomic(tmp_path / "bytes", b"\x00\x01")
    assert (tmp_path / "a" / "b" / "text").read_bytes() == "größer\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\x01"
    write_atomic(tmp_path / "bytes", b"new")
    assert (tmp_path / "bytes").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "bytes"]


def test_files_that_belong_together_are_all_written_or_none(tmp_path):
    write_together({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"1", b"2"]
    with pytest.raises(UserError, match=r"cannot write .*a/below"):
        write_together({tmp_path / "a": b"3", tmp_path / "b": b"4", tmp_path / "a" / "below": b"5"})
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"1", b"2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_stops_leaves_the_old_file(error, tmp_path):
    path = tmp_path / "file"
    write_atomic(path, "old")
    with pytest.raises(error), open_atomic(path) as file:
        file.write(b"half of the n")
        file.flush()
        assert path.read_text() == "old"
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("x")
    write_atomic(tmp_path / "atomic", "x")
    plain, atomic = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic"))
    assert plain == atomic


def test_what_cannot_be_written_or_read_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot write .*file/below: "):
        write_atomic(tmp_path / "file" / "below", "x")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "folder", Path(), Path("/"), tmp_path / "pipe"):
        with pytest.raises(UserError, match=rf"cannot write {re.escape(str(path))}: it is a folder or a device"):
            write_atomic(path, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "pipe"]
    with pytest.raises(UserError, match=r"cannot read .*nothing: No such file"):
        sha256_of(tmp_path / "nothing")


def test_the_checksum_is_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
