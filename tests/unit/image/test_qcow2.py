"""The header parser: real files are understood, dangerous ones refused, and no bytes make it do anything else."""

from __future__ import annotations

import functools
import json
import os
import struct
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.image.conftest import run
from yuntai.image import ImageError, inspect
from yuntai.image.qcow2 import HEADER_READ_BYTES, RefusedError, parse

pytestmark = pytest.mark.timeout(120)
MIB = 1 << 20
TIMES = int(os.environ.get("FUZZ_TIMES", "1"))
"""So many times the usual number of examples: `make fuzz`."""
LUKS_TRIES = 5
"""QEMU times its key derivation, and gives up where a busy machine left it no CPU time that it could measure."""
LUKS = "encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret=s"


def create(path: Path, *options: str, size: str = "16M") -> Path:
    command = ("qemu-img", "create", "-q", "-f", "qcow2", *options, path, size)
    for _ in range(LUKS_TRIES - 1):
        try:
            run(*command)
        except subprocess.CalledProcessError as error:
            if "CPU usage" not in error.stderr:
                raise
        else:
            return path
    run(*command)
    return path


@pytest.mark.parametrize(
    "options",
    [
        ["-o", "compat=0.10"],
        ["-o", "compat=1.1"],
        ["-o", "compat=1.1,lazy_refcounts=on"],
        ["-o", "cluster_size=512"],
        ["-o", "cluster_size=2M"],
        ["-o", "compression_type=zstd"],
        ["-o", "extended_l2=on,cluster_size=128k"],
        ["-o", "refcount_bits=1"],
        ["-o", "preallocation=metadata"],
    ],
)
def test_what_qemu_makes_is_understood(tmp_path: Path, options: list[str]) -> None:
    path = create(tmp_path / "a.qcow2", *options, size=str(17 * MIB))
    found = inspect(path)
    assert (found.format, found.size_bytes, found.file_bytes) == ("qcow2", 17 * MIB, path.stat().st_size)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["-b", "{base}", "-F", "raw"], "backing file"),
        (["-o", "data_file={base}2"], "external file"),
        (["--object", "secret,id=s,data=abc", "-o", LUKS], "encrypted"),
    ],
)
def test_what_reaches_beyond_the_file_is_refused(tmp_path: Path, options: list[str], why: str) -> None:
    base = tmp_path / "base"
    base.write_bytes(bytes(16 * MIB))
    path = create(tmp_path / "a.qcow2", *(o.replace("{base}", str(base)) for o in options))
    with pytest.raises(ImageError, match=why):
        inspect(path)


def test_backing_file_hidden_by_name_alone(tmp_path: Path) -> None:
    """An extension that names a backing format is refused even when the offset was set to 0."""
    base = tmp_path / "base"
    base.write_bytes(bytes(16 * MIB))
    path = create(tmp_path / "a.qcow2", "-b", str(base), "-F", "raw")
    damaged = bytearray(path.read_bytes())
    damaged[8:20] = bytes(12)
    with pytest.raises(RefusedError, match="names the format of a backing file"):
        parse(bytes(damaged), len(damaged))


@functools.cache
def sample() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return create(Path(folder) / "a.qcow2").read_bytes()


def patched(at: int, form: str, value: int) -> bytes:
    data = bytearray(sample())
    struct.pack_into(form, data, at, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("at", "form", "value", "why"),
    [
        (4, ">I", 1, "version 1"),
        (4, ">I", 4, "version 4"),
        (20, ">I", 8, "cluster_bits"),
        (20, ">I", 22, "cluster_bits"),
        (20, ">I", 0xFFFFFFFF, "cluster_bits"),
        (24, ">Q", 0, "virtual size is 0"),
        (24, ">Q", 1 << 60, "virtual size"),
        (24, ">Q", 1 << 41, "L1 table covers"),
        (32, ">I", 1, "encrypted"),
        (36, ">I", 0xFFFFFFFF, "L1 table"),
        (40, ">Q", 1 << 62, "not within the file"),
        (40, ">Q", 7, "not within the file"),
        (48, ">Q", 0, "not within the file"),
        (56, ">I", 0xFFFFFFFF, "not within the file"),
        (72, ">Q", 1, "closed cleanly"),
        (72, ">Q", 2, "corrupt"),
        (72, ">Q", 4, "external file"),
        (72, ">Q", 1 << 63, "not known here: 0x8000000000000000"),
        (96, ">I", 7, "refcount_order"),
        (100, ">I", 103, "header_length"),
        (100, ">I", 0xFFFFFFF8, "header_length"),
    ],
)
def test_each_wrong_field_is_named(at: int, form: str, value: int, why: str) -> None:
    data = patched(at, form, value)
    with pytest.raises(RefusedError, match=why):
        parse(data[:HEADER_READ_BYTES], len(data))


def test_cut_off_files_are_refused() -> None:
    data = sample()
    for length in (0, 3, 71, 72, 80, 103, 104, 65536, len(data) - 65536):
        with pytest.raises(RefusedError):
            parse(data[: min(length, HEADER_READ_BYTES)], length)


@settings(max_examples=100 * TIMES, deadline=None)
@given(st.binary(max_size=2048), st.integers(0, 2**63))
def test_any_bytes_are_accepted_or_refused(tail: bytes, file_bytes: int) -> None:
    for start in (tail, b"QFI\xfb" + tail, b"QFI\xfb\0\0\0\3" + tail):
        try:
            header = parse(start, file_bytes)
        except RefusedError:
            continue
        else:
            assert 0 < header.size_bytes <= 4 << 40


@settings(max_examples=100 * TIMES, deadline=None)
@given(st.sampled_from([b"", b"QFI\xfb\0\0\0\3", b"KDMV", b"LUKS\xba\xbe", b"\x1f\x8b"]), st.binary(max_size=1200))
def test_any_file_is_accepted_or_refused(magic: bytes, rest: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(magic + rest)
        file.flush()
        try:
            found = inspect(file.fileno())
        except ImageError:
            return
        assert found.size_bytes > 0


changes = st.lists(st.tuples(st.integers(0, 160), st.integers(0, 255)), min_size=1, max_size=4)


@settings(max_examples=60 * TIMES, deadline=None)
@given(changes)
@example([(30, 1)])  # a size that is no multiple of a sector
def test_what_is_accepted_qemu_sees_alike(edits: list[tuple[int, int]]) -> None:
    """A damaged header that passes here has no other file behind it and the same size in QEMU's eyes."""
    data = bytearray(sample())
    for at, value in edits:
        data[at] = value
    try:
        header = parse(bytes(data[:HEADER_READ_BYTES]), len(data))
    except RefusedError:
        return
    with tempfile.NamedTemporaryFile(suffix=".qcow2") as file:
        file.write(data)
        file.flush()
        command = ["qemu-img", "info", "-f", "qcow2", "--output=json", file.name]
        answer = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    if answer.returncode == 0:
        said = json.loads(answer.stdout)
        assert said["virtual-size"] == header.size_bytes
        assert "backing-filename" not in said
        assert "data-file" not in said.get("format-specific", {}).get("data", {})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"KDMV" + bytes(508), "a VMDK"),
        (b"\x1f\x8b" + bytes(510), "gzip"),
        (b"LUKS\xba\xbe" + bytes(506), "encrypted"),
        (bytes(0x8001) + b"CD001" + bytes(2048), "CD image"),
        (b"", "0 bytes"),
        (b"x" * 513, "513 bytes"),
    ],
)
def test_other_formats_are_named(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=why):
        inspect(path)


def test_raw_and_what_is_no_file(tmp_path: Path, raw: Path, qcow2_of: Callable[..., Path]) -> None:
    assert inspect(raw).format == "raw"
    assert inspect(raw).size_bytes == 16 * MIB
    with raw.open("rb") as open_file:
        assert inspect(open_file.fileno()) == inspect(raw)
        assert open_file.tell() == 0
    with pytest.raises(ImageError, match="not a regular file"):
        inspect(tmp_path)
    with pytest.raises(ImageError, match="No such file"):
        inspect(tmp_path / "none")
