"""The hosts' root file system: a pinned set of engines from the next Debian, and our Python environment beside it."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import tomllib
from pathlib import Path

from yuntai.lab.layout import MANIFEST, REPOSITORY, Home
from yuntai.lab.setup import sources
from yuntai.lab.setup.steps import QUERY_S, Log, SetupError, digest, remove, swap_in

SUITE = "trixie"
PACKAGES = (
    *("openvswitch-switch", "ovn-central", "ovn-host", "etcd-server", "etcd-client"),
    *("qemu-system-x86", "qemu-utils", "qemu-block-extra"),
    *("libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients", "python3-libvirt"),
    *("nbdkit", "libnbd-bin", "tini", "python3", "python3-venv"),
    *("iproute2", "nftables", "iputils-ping", "tcpdump", "ethtool", "busybox-static", "procps"),
    *("ca-certificates", "openssh-client"),
)
# Documents and translations are a third of the image, and nobody reads them there.
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_MOUNT_POINTS = ("opt/yuntai/src", "opt/yuntai/venv", "opt/yuntai/bin", "srv/guest", "var/lib/yuntai", ".old")
BUILD_S, PIP_S = 1800, 900
CONSTRAINTS = REPOSITORY / "requirements" / "constraints.txt"
_CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"


def image_inputs() -> str:
    """Return what the root file system depends on: this recipe and its packages."""
    return digest(SUITE, *PACKAGES, Path(__file__).read_text().partition("# ---- python environment")[0])


def build_image(home: Home, log: Log, codename: str) -> None:
    """Build the root file system beside the present one, and put it in its place."""
    partial = home.image.with_name("image.partial")
    remove(partial)
    mirror = sources.choose_mirror(sources.read_machine(), codename)
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED]
    options += [f"--aptopt={option}" for option in apt_proxies()]
    log.run(
        *("mmdebstrap", "--variant=minbase", "--mode=root", f"--include={','.join(PACKAGES)}", *options),
        *(SUITE, str(partial), *sources.lines_for(mirror, SUITE)),
        timeout_s=BUILD_S,
    )
    for folder in _MOUNT_POINTS:
        (partial / folder).mkdir(parents=True, exist_ok=True)
    # A host has no way to a mirror; the mirror's name has no place in its root.
    remove(partial / "etc/apt/sources.list")
    manifest = {
        "id": image_inputs()[:12],
        "suite": SUITE,
        "built_utc": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "packages": installed_versions(partial),
    }
    (partial / MANIFEST).parent.mkdir(parents=True, exist_ok=True)
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    swap_in(partial, home.image)


def apt_proxies() -> list[str]:
    """Return the proxies of the machine's own apt, as mmdebstrap's apt does not read them there."""
    shown = subprocess.run(
        ("apt-config", "dump", "Acquire"), capture_output=True, text=True, timeout=QUERY_S, check=False
    )
    return [line for line in shown.stdout.splitlines() if "::proxy" in line.lower() and '""' not in line]


def installed_versions(root: Path) -> dict[str, str]:
    """Return the version of every package in the root file system."""
    shown = subprocess.run(
        ("dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package} ${Version}\\n"),
        capture_output=True,
        text=True,
        timeout=QUERY_S,
        check=True,
    )
    return dict(line.split(" ", 1) for line in shown.stdout.splitlines())


# ---- python environment: changes below do not rebuild the root file system


def requirements() -> list[str]:
    """Return the pinned packages of a host's Python environment, as pyproject.toml lists them."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["host"]]


def venv_inputs() -> str:
    """Return what the hosts' Python environment depends on; it is made by the image's own Python."""
    return digest(image_inputs(), *requirements(), CONSTRAINTS.read_text(), Path(__file__).read_text())


def build_venv(home: Home, log: Log) -> None:
    """Build the hosts' Python environment with the image's own Python, in a mount namespace that leaves no mount."""
    partial, scratch = home.image_venv.with_name("image-venv.partial"), home.root / "image-venv.scratch"
    remove(partial)
    remove(scratch)
    partial.mkdir(parents=True)
    for folder in ("up", "wk", "m"):
        (scratch / folder).mkdir(parents=True)
    (scratch / "constraints.txt").write_text(CONSTRAINTS.read_text())
    (scratch / "install.sh").write_text(_INSTALL)
    environment = {
        "IMAGE": str(home.image),
        "VENV": str(partial),
        "SCRATCH": str(scratch),
        "REQUIREMENTS": " ".join(requirements()),
        **pip_settings(),
    }
    try:
        log.run(
            *("unshare", "--mount", "--propagation", "private", "/bin/sh", "-eu", str(scratch / "install.sh")),
            timeout_s=PIP_S,
            environment=environment,
        )
    finally:
        remove(scratch)
    if not (partial / "bin/supervisord").exists():
        raise SetupError("the hosts' Python environment has no supervisord", "see the log for pip's own message")
    swap_in(partial, home.image_venv)


# The machine's name servers, certificates and pip settings are lent for the time of the installation only.
_INSTALL = f"""\
unset SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE PIP_FIND_LINKS PIP_CONFIG_FILE
M="$SCRATCH/m"
mount -t overlay overlay -o "lowerdir=$IMAGE,upperdir=$SCRATCH/up,workdir=$SCRATCH/wk" "$M"
mount -t proc proc "$M/proc"
mount --bind /dev "$M/dev"
mount --bind "$VENV" "$M/opt/yuntai/venv"
rm -f "$M/etc/resolv.conf"
cp -L /etc/resolv.conf "$M/etc/resolv.conf"
[ ! -s /{_CA_BUNDLE} ] || cp -L /{_CA_BUNDLE} "$M/{_CA_BUNDLE}"
cp "$SCRATCH/constraints.txt" "$M/tmp/constraints.txt"
chroot "$M" /usr/bin/python3 -m venv --system-site-packages /opt/yuntai/venv
chroot "$M" /opt/yuntai/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --ignore-installed \\
  --constraint /tmp/constraints.txt $REQUIREMENTS
chroot "$M" /opt/yuntai/venv/bin/python -m compileall -q /opt/yuntai/venv/lib || true
"""


def pip_settings() -> dict[str, str]:
    """Return the machine's pip settings that also hold in the image: where packages come from, not local folders."""
    kept = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout")
    shown = subprocess.run(
        (str(REPOSITORY / ".venv/bin/python"), "-m", "pip", "config", "list"),
        capture_output=True,
        text=True,
        timeout=QUERY_S,
        check=False,
    )
    settings = {"PIP_CERT": f"/{_CA_BUNDLE}"}
    for line in shown.stdout.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in kept:
            settings["PIP_" + name.upper().replace("-", "_")] = value.strip("'\"")
    return settings
