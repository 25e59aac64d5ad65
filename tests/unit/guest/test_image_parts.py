"""The parts of a guest image that can be checked without building one."""

from __future__ import annotations

import lzma
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from yuntai.guest import __main__ as command
from yuntai.guest import debs, disk, tiny
from yuntai.guest.cpio import Archive


def entries(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Read a newc archive: name → (mode, contents)."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        at += (110 + name_size + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, data[at : at + size])
        at += (size + 3) & ~3


def test_archive_holds_folders_files_links_and_nodes() -> None:
    archive = Archive()
    archive.file("usr/bin/tool", b"abcde", 0o755)
    archive.link("init", "usr/bin/tool")
    archive.character("dev/null", 1, 3, 0o666)
    found = entries(archive.data())
    assert list(found) == ["usr", "usr/bin", "usr/bin/tool", "init", "dev", "dev/null"]
    assert found["usr/bin/tool"] == (stat.S_IFREG | 0o755, b"abcde")
    assert found["init"] == (stat.S_IFLNK | 0o777, b"usr/bin/tool")
    assert stat.S_ISCHR(found["dev/null"][0])
    with pytest.raises(ValueError, match="two entries"):
        archive.file("init", b"")


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed; run: make test")
def test_archive_is_what_cpio_reads() -> None:
    archive = Archive()
    archive.file("a/b", b"x" * 1001)
    done = subprocess.run(["cpio", "-tv"], input=archive.data(), capture_output=True, check=True)
    assert b"1001" in done.stdout
    assert b"a/b" in done.stdout


def test_drivers_come_after_what_they_depend_on(tmp_path: Path) -> None:
    folder = tmp_path / "lib/modules/6/kernel/drivers"
    folder.mkdir(parents=True)
    (folder / "virtio_pci.ko").write_bytes(b"\0depends=virtio,virtio_ring\0")
    (folder / "virtio.ko").write_bytes(b"\0depends=virtio_ring\0")
    (folder / "virtio_ring.ko.xz").write_bytes(lzma.compress(b"\0depends=\0"))
    (folder / "virtio-rng.ko").write_bytes(b"\0depends=virtio\0")
    order = tiny.driver_order(tmp_path, ("virtio_rng", "virtio_pci", "built_in"))
    assert list(order) == ["virtio_ring", "virtio", "virtio_rng", "virtio_pci"]
    assert order["virtio_ring"] == b"\0depends=\0"


def test_partition_table_names_one_bootable_linux_partition() -> None:
    table = disk.partition_table(1 << 20, 255 << 20, 0x1234)
    assert len(table) == 72
    assert table[-2:] == b"\x55\xaa"
    boot, kind, start, sectors = struct.unpack_from("<B3xB3xII", table, 6)
    assert (boot, kind, start, sectors) == (0x80, 0x83, 2048, 255 * 2048)


def test_a_core_image_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(debs.BuildError, match="more than the gap"):
        disk.write_raw(tmp_path / "x", tmp_path, disk.Grub(bytes(512), bytes(1 << 20)), size_bytes=4 << 20, label="x")


def test_another_distribution_is_refused(tmp_path: Path) -> None:
    where = tmp_path / "os-release"
    where.write_text('ID=other\nVERSION_ID="1"\n')
    with pytest.raises(debs.BuildError, match=r"'other'.*Debian 12 or 13"):
        debs.release(where)


def test_a_missing_program_and_a_failing_one_say_what_to_do() -> None:
    with pytest.raises(debs.BuildError, match=r"not installed.*guest packages"):
        debs.run(["no-such-program-of-ours"])
    with pytest.raises(debs.BuildError, match="ended with code 3"):
        debs.run(["sh", "-c", "echo why >&2; exit 3"])


def test_packages_are_listed_for_the_installer(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["packages"]) == 0
    assert capsys.readouterr().out.split() == list(command.PACKAGES)
