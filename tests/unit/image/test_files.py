"""Import and export through a real NBD socket; and whole operations with records and volumes."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.image.conftest import Nbd, run
from yuntai.image import ImageError, checksum, export, inspect, tool, write
from yuntai.image.library import export_image, import_image
from yuntai.model.cluster import Volume, VolumeSource
from yuntai.model.compute import Image
from yuntai.pangu.errors import NotFound, Unavailable
from yuntai.pangu.requests import Attached, nbd_uri
from yuntai.state import MemoryStore

pytestmark = pytest.mark.timeout(120)
MIB = 1 << 20
GIB = 1 << 30


def blank(path: Path, size: int) -> Path:
    with path.open("wb") as out:
        out.truncate(size)
    return path


def same(one: Path, two: Path, one_format: str = "raw", two_format: str = "raw") -> bool:
    command = ["qemu-img", "compare", "-f", one_format, "-F", two_format, str(one), str(two)]
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0


@pytest.mark.parametrize("options", [None, [], ["-c"], ["-c", "-o", "compression_type=zstd"], ["-o", "compat=0.10"]])
def test_import_keeps_bytes_and_holes(
    tmp_path: Path, raw: Path, nbd: Nbd, qcow2_of: Callable[..., Path], options: list[str] | None
) -> None:
    source = raw if options is None else qcow2_of(raw, *options)
    volume = blank(tmp_path / "volume", 64 * MIB)
    socket = nbd.serve(volume, "vol-1")
    seen: list[tuple[int, int]] = []
    write(source, inspect(source), socket, "vol-1", lambda done, whole: seen.append((done, whole)))
    assert same(raw, volume)
    assert volume.stat().st_blocks * 512 < MIB, "holes stay holes"
    assert seen[-1] == (16 * MIB, 16 * MIB)
    assert seen == sorted(seen)


def test_export_and_back(tmp_path: Path, raw: Path, nbd: Nbd) -> None:
    socket = nbd.serve(raw, "vol-1", read_only=True)
    out = tmp_path / "out.qcow2"
    export(socket, "vol-1", out)
    assert same(raw, out, two_format="qcow2")
    assert out.stat().st_size < 2 * MIB
    assert inspect(out).size_bytes == 16 * MIB
    export(socket, "vol-1", out, compress=True)
    assert same(raw, out, two_format="qcow2")
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_checksum_is_of_the_file(raw: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert checksum(raw, lambda done, whole: seen.append((done, whole))) == (
        "sha256:" + hashlib.sha256(raw.read_bytes()).hexdigest()
    )
    assert seen[-1] == (16 * MIB, 16 * MIB)


def test_failures_say_why(tmp_path: Path, raw: Path, nbd: Nbd, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match=r"No such file|Failed to connect"):
        write(raw, inspect(raw), str(tmp_path / "none.sock"), "vol-1")
    small = nbd.serve(blank(tmp_path / "small", MIB), "vol-2")
    with pytest.raises(ImageError, match=r"smaller|too small|space"):
        write(raw, inspect(raw), small, "vol-2")
    with pytest.raises(ImageError, match="cannot stand in a URI"):
        write(raw, inspect(raw), "/a?b", "vol-2")
    with pytest.raises(ImageError, match="qemu-img convert failed"):
        export(small, "another-export", tmp_path / "x.qcow2")
    assert not (tmp_path / "x.qcow2").exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="install the package qemu-utils"):
        write(raw, inspect(raw), small, "vol-2")


def test_a_name_is_never_a_protocol(tmp_path: Path, raw: Path, nbd: Nbd) -> None:
    odd = tmp_path / "nbd:host:1,x.raw"
    odd.write_bytes(raw.read_bytes())
    volume = blank(tmp_path / "volume", 16 * MIB)
    write(odd, inspect(odd), nbd.serve(volume, "v"), "v")
    assert same(raw, volume)


def test_standing_still_ends_it(tmp_path: Path, raw: Path, nbd: Nbd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "STALL_S", 1.0)
    socket = nbd.serve(blank(tmp_path / "volume", 16 * MIB), "v")
    nbd.running["v"].send_signal(19)  # SIGSTOP: a volume whose I/O stalls
    try:
        with pytest.raises(ImageError, match="no progress"):
            write(raw, inspect(raw), socket, "v")
    finally:
        nbd.running["v"].send_signal(18)


class FakePangu:
    """Volumes as raw files behind qemu-nbd; the part of :class:`PanguClient` that an import uses."""

    def __init__(self, folder: Path, nbd: Nbd) -> None:
        self.folder, self.nbd = folder, nbd
        self.volumes: dict[str, Volume] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.fail: str = ""

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.fail == call[0]:
            raise Unavailable("made to fail")

    async def create_volume(
        self, size_bytes: int, *, volume_id: str = "", source: VolumeSource | None = None, keep_s: int = 0
    ) -> Volume:
        self._note("create", size_bytes)
        made = Volume(id=volume_id or "vol-00000000000000c1", size_bytes=size_bytes, source=source, created="")
        blank(self.folder / made.id, size_bytes)
        if source is not None:
            (self.folder / made.id).write_bytes((self.folder / source.volume).read_bytes())
        self.volumes[made.id] = made
        return made

    async def volume(self, volume_id: str) -> Volume:
        return self.volumes[volume_id]

    async def keep(self, volume_id: str, keep_s: int) -> None:
        self._note("keep", keep_s)

    async def attach(self, volume_id: str, host: str, *, read_only: bool = False) -> Attached:
        self._note("attach", volume_id, host, read_only)
        socket = self.nbd.serve(self.folder / volume_id, volume_id, read_only=read_only)
        inside = socket.replace(str(self.folder), "/run/yuntai/nbd")
        return Attached(volume=volume_id, generation=1, socket=inside, uri=nbd_uri(volume_id, inside))

    async def detach(self, volume_id: str, host: str) -> None:
        if volume_id not in self.volumes:
            raise NotFound("there is no such volume")
        self._note("detach", volume_id)
        self.nbd.stop(volume_id)

    async def snapshot(self, volume_id: str, name: str) -> int:
        self._note("snapshot", volume_id, name)
        return 1

    async def delete_volume(self, volume_id: str) -> None:
        self._note("delete", volume_id)
        del self.volumes[volume_id]


def outside(folder: Path) -> Callable[[str], str]:
    return lambda path: path.replace("/run/yuntai/nbd", str(folder))


async def test_import_image_to_the_end(tmp_path: Path, raw: Path, nbd: Nbd, qcow2_of: Callable[..., Path]) -> None:
    store, pangu = MemoryStore(), FakePangu(tmp_path, nbd)
    path = qcow2_of(raw)
    seen: list[tuple[int, int]] = []
    image = await import_image(
        store,
        pangu,  # type: ignore[arg-type]
        path,
        "debian",
        host="h1",
        os_name="Debian 12",
        locate=outside(tmp_path),
        progress=lambda done, whole: seen.append((done, whole)),
    )
    assert (image.status, image.progress, image.node, image.size_gib) == ("Available", 100, 1, 1)
    assert image.checksum == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert (await store.need(Image, image.id)).value == image
    assert [call[0] for call in pangu.calls] == ["create", "attach", "detach", "snapshot", "keep"]
    assert pangu.calls[0] == ("create", GIB)
    assert same(raw, tmp_path / image.volume)
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == path.stat().st_size + 16 * MIB

    out = tmp_path / "out.qcow2"
    await export_image(pangu, image.volume, 1, out, host="h1", locate=outside(tmp_path))  # type: ignore[arg-type]
    assert same(raw, out, two_format="qcow2")
    assert list(pangu.volumes) == [image.volume], "the clone that was read is gone"
    assert run("qemu-img", "info", "-f", "qcow2", out)


@pytest.mark.parametrize("step", ["create", "attach", "snapshot"])
async def test_failed_import_leaves_nothing_but_its_record(tmp_path: Path, raw: Path, nbd: Nbd, step: str) -> None:
    store, pangu = MemoryStore(), FakePangu(tmp_path, nbd)
    pangu.fail = step
    with pytest.raises(Unavailable, match="made to fail"):
        await import_image(store, pangu, raw, "x", host="h1", locate=outside(tmp_path))  # type: ignore[arg-type]
    (record,) = await store.list(Image)
    assert (record.value.status, record.value.reason) == ("CreateFailed", "made to fail")
    assert pangu.volumes == {}
    assert nbd.running == {}


async def test_refused_file_leaves_no_record(tmp_path: Path, nbd: Nbd) -> None:
    store = MemoryStore()
    (tmp_path / "x").write_bytes(b"KDMV" + bytes(508))
    with pytest.raises(ImageError, match="VMDK"):
        await import_image(store, FakePangu(tmp_path, nbd), tmp_path / "x", "x", host="h1")  # type: ignore[arg-type]
    assert await store.list(Image) == []


async def test_cancelled_import_stops_and_cleans_up(tmp_path: Path, raw: Path, nbd: Nbd) -> None:
    store, pangu = MemoryStore(), FakePangu(tmp_path, nbd)
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(done: int, whole: int) -> None:
        loop.call_soon_threadsafe(started.set)

    task = asyncio.create_task(
        import_image(store, pangu, raw, "x", host="h1", locate=outside(tmp_path), progress=slow)  # type: ignore[arg-type]
    )
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (record,) = await store.list(Image)
    assert record.value.status == "CreateFailed"
    assert pangu.volumes == {}
