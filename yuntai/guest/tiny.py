"""The image "tiny": the distribution's cloud kernel, busybox and dropbear. It boots in seconds even without KVM.

Everything runs from an initramfs; the disk's ext4 partition holds kernel, initramfs and what must outlive a restart.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from yuntai.guest import debs
from yuntai.guest.cpio import Archive
from yuntai.guest.disk import GRUB_PACKAGES, Stamp, grub, publish, write_raw

FILES = Path(__file__).parent / "files" / "tiny"
DISK_BYTES = 256 << 20
# No self-tests, no security modules, no KASLR: each costs an emulated boot time, and this guest guards nothing.
KERNEL_LINE = (
    "console=ttyS0,115200 loglevel=4 panic=5 nokaslr cryptomgr.notests lsm= audit=0 mitigations=off "
    "no_timer_check 8250.nr_uarts=1"
)
GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "linux", "boot")
DRIVERS = ("virtio_pci", "virtio_rng", "virtio_blk", "virtio_net", "button", "evdev", "qemu_fw_cfg", "pvpanic_mmio")
PROGRAMS = ("usr/sbin/dropbear", "usr/bin/dropbearkey", "usr/bin/dbclient")
SCRIPTS = {"rc": "etc/rc", "rc.network": "etc/rc.network", "udhcpc.script": "etc/udhcpc.script"}
TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shells": "/bin/sh\n",
    "etc/issue": "Yuntai tiny\n",
    "etc/profile": "export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root\n",
    "etc/acpi/PWRF/00000080": "#!/bin/sh\nexec poweroff\n",
}
LINKS = {
    "init": "bin/busybox",
    "root": "disk/root",
    "etc/dropbear": "../disk/etc/dropbear",
    "var/lib/tiny": "../../disk/var/lib/tiny",
    "var/run": "../run",
    "var/log": "../run",
    "etc/resolv.conf": "../run/resolv.conf",
}


def build(out: Path) -> Stamp:
    """Build the image into the file ``out``."""
    with tempfile.TemporaryDirectory(prefix="yuntai-tiny-", dir=out.parent) as scratch:
        work = Path(scratch)
        root, grub_root = work / "root", work / "grub"
        kernel_package = debs.dependency("linux-image-cloud-amd64", r"linux-image-\d.*-cloud-amd64")
        debs.fetch(sorted({kernel_package, "busybox-static", *debs.closure("dropbear-bin")}), root)
        debs.fetch(list(GRUB_PACKAGES), grub_root)

        tree = work / "tree"
        (tree / "boot").mkdir(parents=True)
        kernel = next(root.glob("boot/vmlinuz-*"))
        (tree / "boot" / "vmlinuz").write_bytes(kernel.read_bytes())
        packed = _compress(initramfs(root))
        (tree / "boot" / "initrd").write_bytes(packed)

        raw = work / "tiny.raw"
        # The boot commands are inside GRUB's core: no menu, no wait, no file to read but kernel and initramfs.
        commands = f"linux /boot/vmlinuz {KERNEL_LINE}\ninitrd /boot/initrd\nboot\n"
        write_raw(raw, tree, grub(grub_root, GRUB_MODULES, commands), size_bytes=DISK_BYTES, label="tiny")
        version = kernel_package.removeprefix("linux-image-").removesuffix("-cloud-amd64")
        return publish(raw, out, os_name=f"Yuntai tiny (Linux {version}, busybox)", version=version)


def initramfs(root: Path) -> bytes:
    """Return the uncompressed initramfs made of the unpacked packages in ``root`` and of our scripts."""
    archive = Archive()
    for folder in ("proc", "sys", "dev", "run", "disk", "mnt", "sbin", "usr/bin", "usr/sbin"):
        archive.directory(folder)
    archive.directory("tmp", 0o1777)
    archive.character("dev/console", 5, 1)
    archive.character("dev/null", 1, 3, 0o666)
    for name in ("acpid", "getty", "poweroff", "reboot", "init"):
        archive.link(f"sbin/{name}", "../bin/busybox")
    _add_programs(archive, root)
    _add_drivers(archive, root)
    for name, path in SCRIPTS.items():
        archive.file(path, (FILES / name).read_bytes(), 0o755)
    archive.file("etc/inittab", (FILES / "inittab").read_bytes())
    # An empty password opens the serial console only: dropbear refuses blank passwords, and -s all of them.
    archive.file("etc/shadow", b"root::19000:0:99999:7:::\n", 0o600)
    for path, text in TEXTS.items():
        archive.file(path, text.encode(), 0o755 if path.startswith("etc/acpi") else 0o644)
    for path, target in LINKS.items():
        archive.link(path, target)
    return archive.data()


def driver_order(root: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """Return the modules to load, in order: each after those that its ``depends=`` names."""
    order: dict[str, bytes] = {}

    def visit(name: str) -> None:
        if name in order:
            return
        data = debs.module(root, name) or debs.module(root, name.replace("_", "-"))
        if data is None:
            return  # built into the kernel
        depends = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in depends.group(1).decode().split(",") if depends else []:
            if other:
                visit(other)
        order[name] = data

    for name in wanted:
        visit(name)
    return order


def _add_programs(archive: Archive, root: Path) -> None:
    busybox = next(path for path in (root / "bin/busybox", root / "usr/bin/busybox") if path.is_file())
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    needed: dict[str, Path] = {}
    for applet in debs.run([str(busybox), "--list"]).split():
        if applet != "busybox":
            archive.link(f"bin/{applet}", "busybox")
    for program in PROGRAMS:
        archive.file(program, (root / program).read_bytes(), 0o755)
        needed |= debs.libraries(root / program, root)
    # Loaded by name at run time, so no loader lists it: the user database of glibc.
    needed |= {f"/lib/{path.name}": path for path in root.glob("**/libnss_files.so.2")}
    for path, source in sorted(needed.items()):
        archive.file(path, source.read_bytes(), 0o755)


def _add_drivers(archive: Archive, root: Path) -> None:
    drivers = driver_order(root, DRIVERS)
    for name, data in drivers.items():
        archive.file(f"lib/modules/{name}.ko", data)
    archive.file("etc/modules", "".join(f"{name}\n" for name in drivers).encode())


def _compress(data: bytes) -> bytes:
    """Compress for the kernel: zstd unpacks fast also under emulation, and GRUB reads less through the BIOS."""
    done = subprocess.run(["zstd", "-q", "-19", "-c"], input=data, capture_output=True, check=True, timeout=120)
    return done.stdout
