"""The processes of a host, as data: what each runs, what it needs first, where it answers. Order is start order."""

from __future__ import annotations

from dataclasses import dataclass

from yuntai.lab.spec import CENTRAL, COMPUTE, CONTROL, ENGINES, STORAGE, HostSpec

PYTHON = "/opt/yuntai/venv/bin/python"
PROGRAMS = "/opt/yuntai/bin"
CONFIG = "/etc/yuntai/yuntai.json"
VSWITCH_SOCKET = "/run/openvswitch/db.sock"
LIBVIRT_SOCKET = "/run/libvirt/libvirt-sock"
# OVS and OVN programs write to standard error only; the supervisor stores and rotates it.
_OVS_LOG = ("-vconsole:info", "-vsyslog:off", "-vfile:off", "--no-chdir")


@dataclass(frozen=True, kw_only=True)
class Service:
    """One supervised process. ``prepare`` and ``after`` are sh scripts, run before it and beside its start."""

    name: str
    command: tuple[str, ...]
    package: str
    needs: tuple[str, ...] = ()
    answers: str = ""
    prepare: str = ""
    after: str = ""
    stop_wait_s: int = 10


def services(spec: HostSpec) -> list[Service]:
    """Return the processes of the host ``spec`` in start order; they are stopped in the reverse order."""
    made: list[Service] = []
    if CENTRAL in spec.roles:
        made += [_etcd(spec), _ovn_database("nb", 6641, spec), _ovn_database("sb", 6642, spec), _northd()]
    if ENGINES in spec.roles:
        made += [_ovsdb(), _vswitchd(spec), _ovn_controller(spec), _libvirtd()]
    if STORAGE in spec.roles:
        made += _storage(spec)
    if CONTROL in spec.roles:
        made += _control(spec)
    if COMPUTE in spec.roles:
        made += _compute(spec)
    return made


def _etcd(spec: HostSpec) -> Service:
    client, peer = f"http://{spec.address}:2379", f"http://{spec.address}:2380"
    command = (
        *("/usr/bin/etcd", "--name", spec.name, "--data-dir", "/var/lib/yuntai/etcd"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
        *("--initial-cluster", f"{spec.name}={peer}", "--initial-cluster-token", spec.cluster.name),
        *("--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1h"),
        *("--log-level", "warn"),
    )
    return Service(
        name="etcd",
        package="etcd-server",
        command=command,
        answers=f"tcp:{spec.address}:2379",
        prepare="mkdir -p /var/lib/yuntai/etcd && chmod 700 /var/lib/yuntai/etcd",
    )


def _ovn_database(which: str, port: int, spec: HostSpec) -> Service:
    file, schema = f"/var/lib/yuntai/ovn/ovn{which}.db", f"/usr/share/ovn/ovn-{which}.ovsschema"
    command = (
        *("ovsdb-server", f"--remote=punix:/run/ovn/ovn{which}_db.sock", f"--remote=ptcp:{port}:{spec.address}"),
        *(f"--unixctl=/run/ovn/ovn{which}_db.ctl", *_OVS_LOG, file),
    )
    # A newer image brings a newer schema: the database is converted in place, as the distribution's own scripts do.
    prepare = (
        f"mkdir -p /run/ovn /var/lib/yuntai/ovn\n"
        f"if [ ! -e {file} ]; then ovsdb-tool create {file}.new {schema} && mv {file}.new {file}\n"
        f'elif [ "$(ovsdb-tool needs-conversion {file} {schema})" = yes ]; then ovsdb-tool convert {file} {schema}; fi'
    )
    return Service(
        name=f"ovn-{which}",
        package="ovn-central",
        command=command,
        answers=f"unix:/run/ovn/ovn{which}_db.sock",
        prepare=prepare,
    )


def _northd() -> Service:
    return Service(
        name="ovn-northd",
        package="ovn-central",
        command=(
            *("ovn-northd", "--pidfile", *_OVS_LOG),
            *("--ovnnb-db=unix:/run/ovn/ovnnb_db.sock", "--ovnsb-db=unix:/run/ovn/ovnsb_db.sock"),
        ),
        needs=("unix:/run/ovn/ovnnb_db.sock", "unix:/run/ovn/ovnsb_db.sock"),
        answers="file:/run/ovn/ovn-northd.pid",
    )


def _ovsdb() -> Service:
    # The database lies in /run: it must outlive the process, with the guests' ports in it, but not the host.
    file = "/run/openvswitch/conf.db"
    return Service(
        name="ovsdb",
        package="openvswitch-switch",
        command=("ovsdb-server", f"--remote=punix:{VSWITCH_SOCKET}", "--pidfile", *_OVS_LOG, file),
        answers=f"unix:{VSWITCH_SOCKET}",
        prepare=(
            f"mkdir -p /run/openvswitch\n"
            f"[ -e {file} ] || {{ ovsdb-tool create {file}.new /usr/share/openvswitch/vswitch.ovsschema"
            f" && mv {file}.new {file}; }}"
        ),
    )


def _vswitchd(spec: HostSpec) -> Service:
    bridges = {
        "br-phy": ("under0", "standalone", spec.interface(spec.cluster.underlay), 9000),
        "br-ext": ("ext0", "standalone", spec.interface(spec.cluster.external), 1500),
        "br-int": ("", "secure", "", 9000),
    }
    settings = {
        "system-id": spec.name,
        "hostname": spec.name,
        "ovn-remote": f"tcp:{spec.central}:6642",
        "ovn-encap-type": "geneve",
        "ovn-encap-ip": spec.interface(spec.cluster.underlay).partition("/")[0],
        "ovn-bridge-datapath-type": "netdev",
        "ovn-bridge-mappings": "ext:br-ext",
        "ovn-monitor-all": "true",
    }
    words = ["set open_vswitch .", *(f"external_ids:{key}={value}" for key, value in settings.items())]
    # Any change without --no-wait returns when the daemon has taken the whole configuration in: devices of a killed
    # predecessor are then its own.
    after = ['ovs-vsctl --timeout=50 set open_vswitch . external_ids:yuntai-start="$$"']
    for bridge, (port, mode, address, mtu) in bridges.items():
        words.append(f"-- --may-exist add-br {bridge} -- set bridge {bridge} datapath_type=netdev fail_mode={mode}")
        if port:
            words.append(f"-- --may-exist add-port {bridge} {port}")
        # The bridge's own device appears some 0.1 s after the daemon, and comes back without its address.
        attempt = f"ip link set {bridge} mtu {mtu} up" + (
            f" && ip address replace {address} dev {bridge}" if address else ""
        )
        after.append(f"n=0; until {attempt} 2>/dev/null; do n=$((n+1)); [ $n -lt 100 ] || exit 1; sleep 0.05; done")
    return Service(
        name="ovs-vswitchd",
        package="openvswitch-switch",
        command=("ovs-vswitchd", "--disable-system", "--pidfile", *_OVS_LOG, f"unix:{VSWITCH_SOCKET}"),
        needs=(f"unix:{VSWITCH_SOCKET}",),
        answers="file:/run/openvswitch/ovs-vswitchd.pid",
        prepare="ovs-vsctl --no-wait --timeout=10 init\novs-vsctl --no-wait --timeout=10 " + " ".join(words),
        after="\n".join(after),
    )


def _ovn_controller(spec: HostSpec) -> Service:
    return Service(
        name="ovn-controller",
        package="ovn-host",
        command=("ovn-controller", "--pidfile", *_OVS_LOG, f"unix:{VSWITCH_SOCKET}"),
        needs=(f"unix:{VSWITCH_SOCKET}", "file:/run/openvswitch/ovs-vswitchd.pid", f"tcp:{spec.central}:6642"),
        answers="file:/run/ovn/ovn-controller.pid",
        prepare="mkdir -p /run/ovn",
    )


def _libvirtd() -> Service:
    return Service(
        name="libvirtd",
        package="libvirt-daemon",
        command=("/usr/sbin/libvirtd", "--listen", "--pid-file", "/run/libvirt/libvirtd.pid"),
        answers=f"listen:{LIBVIRT_SOCKET}",
        prepare="mkdir -p /run/libvirt",
        stop_wait_s=20,
    )


def _storage(spec: HostSpec) -> list[Service]:
    made = [
        Service(
            name=f"chunkserver-{server.id}",
            package="yuntai",
            command=(f"{PROGRAMS}/yuntai-chunkserver", "--config", CONFIG, "--id", str(server.id)),
            answers=f"tcp:{spec.address}:{server.port}",
            prepare=f"mkdir -p {server.path} && chmod 700 {server.path}",
            stop_wait_s=20,
        )
        for server in spec.chunkservers()
    ]
    gateway = Service(
        name="gateway",
        package="yuntai",
        command=(f"{PROGRAMS}/yuntai-gateway", "--config", CONFIG),
        answers=f"tcp:{spec.address}:{spec.config().gateway_port}",
        prepare="mkdir -p /run/yuntai/nbd && chmod 700 /run/yuntai/nbd",
        stop_wait_s=20,
    )
    return [*made, gateway]


def _python(name: str, module: str, *needs: str, answers: str = "") -> Service:
    return Service(name=name, package="yuntai", command=(PYTHON, "-m", module), needs=needs, answers=answers)


def _control(spec: HostSpec) -> list[Service]:
    etcd, config = f"tcp:{spec.central}:2379", spec.config()
    master, api = f"tcp:{spec.address}:{config.master_port}", f"tcp:{spec.address}:{config.api_port}"
    return [
        _python("master", "yuntai.pangu", etcd, answers=master),
        _python("control", "yuntai.control", etcd, f"tcp:{spec.central}:6641"),
        _python("api", "yuntai.api", etcd, answers=api),
    ]


def _compute(spec: HostSpec) -> list[Service]:
    etcd = f"tcp:{spec.central}:2379"
    return [
        _python("agent", "yuntai.compute", etcd, f"listen:{LIBVIRT_SOCKET}", f"unix:{VSWITCH_SOCKET}"),
        _python("guard", "yuntai.compute.guard", answers=f"tcp:{spec.address}:{spec.config().agent_port}"),
        _python("metadata", "yuntai.metadata", etcd),
    ]
