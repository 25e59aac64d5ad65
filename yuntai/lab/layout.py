"""Where everything of a lab lies on the user's machine. Standard library only: the bootstrap needs it early."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HOME_VARIABLE = "YUNTAI_HOME"
CLUSTER_VARIABLE = "YUNTAI_CLUSTER"
DEFAULT_CLUSTER = "lab"
# One file for each cluster that runs, with the home it belongs to: names of namespaces are the whole machine's.
CLAIMS = Path("/run/yuntai-lab")
# In the image: what it holds, as :class:`yuntai.lab.record.ImageManifest`.
MANIFEST = "etc/yuntai/image.json"


@dataclass(frozen=True)
class HostFolders:
    """The folders and files of one host."""

    root: Path

    @property
    def upper(self) -> Path:
        """What the host changed in its root file system."""
        return self.root / "up"

    @property
    def work(self) -> Path:
        """The overlay's own scratch folder."""
        return self.root / "wk"

    @property
    def merged(self) -> Path:
        """Where the host's root is mounted, in its own mount namespace only."""
        return self.root / "m"

    @property
    def run(self) -> Path:
        """The host's ``/run``: sockets and pid files, wiped before each start."""
        return self.root / "run"

    @property
    def data(self) -> Path:
        """The host's ``/var/lib/yuntai``: what must survive everything."""
        return self.root / "data"

    @property
    def log(self) -> Path:
        """The host's ``/var/log``."""
        return self.root / "log"

    @property
    def record(self) -> Path:
        """What runs now: see :class:`yuntai.lab.keeper.Record`."""
        return self.root / "host.json"

    @property
    def spec(self) -> Path:
        """What the host is: see :class:`yuntai.lab.spec.HostSpec`."""
        return self.root / "spec.json"

    @property
    def code(self) -> Path:
        """Which code each process was started from: see :mod:`yuntai.lab.versions`."""
        return self.root / "code.json"

    @property
    def supervisor_socket(self) -> Path:
        """The supervisor's XML-RPC socket."""
        return self.run / "supervisor.sock"

    @property
    def console(self) -> Path:
        """What the host's keeper and first process printed."""
        return self.root / "console.log"

    def make(self) -> None:
        """Make the folders that a start needs."""
        for folder in (self.upper, self.work, self.merged, self.run, self.data, self.log):
            folder.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class Home:
    """The data folder, ``$YUNTAI_HOME``; ``images`` is another home whose image, guests and programs are shared."""

    root: Path
    images: Path | None = None

    @property
    def shared(self) -> Path:
        """The home that holds what hosts only read."""
        return self.images or self.root

    @property
    def image(self) -> Path:
        """The root file system below every host."""
        return self.shared / "image"

    @property
    def image_venv(self) -> Path:
        """The hosts' Python environment, shown at ``/opt/yuntai/venv``."""
        return self.shared / "image-venv"

    @property
    def programs(self) -> Path:
        """The Rust programs, shown at ``/opt/yuntai/bin``."""
        return self.shared / "bin"

    @property
    def guest(self) -> Path:
        """Guest kernels and images, shown at ``/srv/guest``."""
        return self.shared / "guest"

    @property
    def log(self) -> Path:
        """The logs of set-up."""
        return self.root / "log"

    @property
    def stamps(self) -> Path:
        """One file for each set-up step that is done, with the hash of its inputs."""
        return self.root / "stamps"

    @property
    def secrets(self) -> Path:
        """The cluster's secrets, 0700."""
        return self.root / "secrets"

    @property
    def credentials(self) -> Path:
        """The user's access key and where the API is, 0600."""
        return self.root / "credentials.json"

    @property
    def lock(self) -> Path:
        """Held while fabric or hosts are made or removed."""
        return self.root / "lab.lock"

    @property
    def forward_lock(self) -> Path:
        """Held by the keeper whose child leads the loopback to the API: one of the members' at a time."""
        return self.root / "forward.lock"

    @property
    def cluster(self) -> Path:
        """The settings of the cluster that lives in this home."""
        return self.root / "cluster.json"

    @property
    def hosts(self) -> Path:
        """The folder of all hosts."""
        return self.root / "hosts"

    def host(self, name: str) -> HostFolders:
        """Return the folders of the host ``name``."""
        return HostFolders(self.hosts / name)


def wanted_cluster() -> str:
    """Return ``$YUNTAI_CLUSTER``, or "" where nobody asks for a name."""
    return os.environ.get(CLUSTER_VARIABLE, "")


def default_home() -> Path:
    """Return ``$YUNTAI_HOME``, or ``.yuntai`` in the repository."""
    return Path(os.environ.get(HOME_VARIABLE) or REPOSITORY / ".yuntai").absolute()
