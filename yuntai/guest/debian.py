"""The image "debian": a small Debian with cloud-init and sshd, tuned so that it also boots in a minute under emulation.

What takes the time without KVM is the number of programs started at boot. So: systemd-networkd instead of netplan, one
host key type, cloud-init with the modules that this cloud's tenants use, no background timers.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from yuntai.guest import debs
from yuntai.guest.disk import GRUB_PACKAGES, Stamp, grub, publish, write_raw

FILES = Path(__file__).parent / "files" / "debian"
DISK_BYTES = 2 << 30
BUILD_TIMEOUT_S = 900.0
PACKAGES = (
    "bash-completion", "ca-certificates", "cloud-guest-utils", "cloud-init", "curl", "dbus", "e2fsprogs", "fdisk",
    "gpg", "iproute2", "iputils-ping", "less", "libpam-systemd", "linux-image-cloud-amd64", "netbase", "openssh-server",
    "procps", "qemu-guest-agent", "sudo", "systemd-resolved", "systemd-sysv", "udev", "vim-tiny", "zstd",
)  # fmt: skip
GRUB_MODULES = (
    "biosdisk", "part_msdos", "ext2", "normal", "configfile", "linux", "boot", "echo", "test", "ls", "cat", "reboot",
    "halt", "serial", "terminal", "search", "search_label", "search_fs_uuid",
)  # fmt: skip
MASKED = (
    "apt-daily-upgrade.timer", "apt-daily.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "getty@tty1.service", "man-db.timer", "proc-sys-fs-binfmt_misc.automount", "systemd-binfmt.service",
)  # fmt: skip
# Path in the image → file of ours.
PLACED = {
    "etc/cloud/cloud.cfg.d/90_yuntai.cfg": "cloud.cfg",
    "etc/systemd/network/20-dhcp.network": "dhcp.network",
    "etc/systemd/system/systemd-networkd-wait-online.service.d/any.conf": "wait-online.conf",
    "etc/ssh/sshd_config.d/10-yuntai.conf": "sshd.conf",
    "boot/grub/grub.cfg": "grub.cfg",
    "etc/fstab": "fstab",
    "var/lib/cloud/scripts/per-instance/password": "password.sh",
}
# Placed before the kernel's package is configured, for its script builds the initramfs.
PLACED_EARLY = {
    "etc/initramfs-tools/conf.d/yuntai": "initramfs.conf",
    "usr/share/initramfs-tools/modules.d/yuntai": "initramfs.modules",
    "etc/kernel-img.conf": "kernel-img.conf",
}
NOT_UNPACKED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*/LC_MESSAGES/*")


def build(out: Path) -> Stamp:
    """Build the image into the file ``out``. Needs root: a package's scripts run inside the new system."""
    if os.geteuid() != 0:
        raise debs.BuildError("the image debian is built as root (its packages' scripts run in a chroot); use sudo")
    release = debs.release()
    with tempfile.TemporaryDirectory(prefix="yuntai-debian-", dir=out.parent) as scratch:
        work = Path(scratch)
        tree = work / "tree"
        bootstrap(tree, release.codename)
        kernels = sorted(path.name.removeprefix("vmlinuz-") for path in (tree / "boot").glob("vmlinuz-*"))
        if not kernels:
            raise debs.BuildError("the new system has no kernel in /boot; the package linux-image-cloud-amd64 failed")
        configure(tree)
        debs.fetch(list(GRUB_PACKAGES), work / "grub")
        raw = work / "debian.raw"
        write_raw(raw, tree, grub(work / "grub", GRUB_MODULES), size_bytes=DISK_BYTES, label="root")
        shutil.rmtree(tree)
        return publish(raw, out, os_name=f"Debian {release.number} 64-bit", version=f"{release.number}-{kernels[-1]}")


def bootstrap(tree: Path, codename: str) -> None:
    """Install the packages into ``tree``."""
    early = [
        f'--essential-hook=mkdir -p "$1/{Path(path).parent}" && cp "{FILES / name}" "$1/{path}"'
        for path, name in PLACED_EARLY.items()
    ]
    debs.run(
        [
            "mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", "--format=directory", *early,
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in NOT_UNPACKED),
            "--dpkgopt=path-include=/usr/share/doc/*/copyright",
            f"--include={','.join(PACKAGES)}", codename, str(tree), *debs.mirrors(codename),
        ],
        timeout_s=BUILD_TIMEOUT_S,
    )  # fmt: skip


def configure(tree: Path) -> None:
    """Write our files and switch services; remove what must be each instance's own."""
    for path, name in PLACED.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((FILES / name).read_bytes())
        target.chmod(0o755 if name.endswith(".sh") else 0o644)
    units = tree / "etc/systemd/system"
    for name in MASKED:
        _relink(units / name, "/dev/null")
    debs.run(["chroot", str(tree), "systemctl", "enable", "systemd-networkd.service", "systemd-resolved.service"])
    _relink(units / "default.target", "/lib/systemd/system/multi-user.target")
    _relink(tree / "etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
    (tree / "etc/hostname").write_text("debian\n", encoding="ascii")
    (tree / "etc/machine-id").write_text("", encoding="ascii")  # empty = made at boot, without the first-boot wizard
    for pattern in ("etc/ssh/ssh_host_*", "var/lib/apt/lists/*_*", "var/cache/apt/*.bin", "var/log/*.log"):
        for leftover in tree.glob(pattern):
            leftover.unlink()


def _relink(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
