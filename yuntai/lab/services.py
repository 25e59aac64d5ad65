"""The processes of a host, as data: what each runs, what it needs first, where it answers. Order is start order."""

from __future__ import annotations

from dataclasses import dataclass, replace

from yuntai.lab.spec import CENTRAL, COMPUTE, CONTROL, ENGINES, OVN_NB_PORT, OVN_SB_PORT, STORAGE, HostSpec, host_name

PYTHON = "/opt/yuntai/venv/bin/python"
PROGRAMS = "/opt/yuntai/bin"
CONFIG = "/etc/yuntai/yuntai.json"
VSWITCH_SOCKET = "/run/openvswitch/db.sock"
LIBVIRT_SOCKET = "/run/libvirt/libvirt-sock"
# OVS and OVN programs write to standard error only; the supervisor stores and rotates it.
# How long members of a cluster wait for their leader before they elect another: a busy machine of two cores must not
# look like a dead leader, and a dead one must be replaced before a host's lease has run out.
_ETCD_HEARTBEAT_MS, _ETCD_ELECTION_MS = 200, 1500
_OVN_ELECTION_MS = 2000
_RAFT_PORTS = {"nb": 6643, "sb": 6644}
_OVN_SCHEMAS = {"nb": "OVN_Northbound", "sb": "OVN_Southbound"}
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
        made += [_etcd(spec), _ovn_database("nb", OVN_NB_PORT, spec), _ovn_database("sb", OVN_SB_PORT, spec)]
        made += [_northd(spec)]
    if ENGINES in spec.roles:
        made += [_ovsdb(), _vswitchd(spec), _ovn_controller(spec), _libvirtd()]
    if STORAGE in spec.roles:
        made += _storage(spec)
    if CONTROL in spec.roles:
        made += _control(spec)
    if COMPUTE in spec.roles:
        made += _compute(spec)
    if spec.bare:
        engines = {service.name for service in made if service.package != "yuntai"}
        made = [one if one.name in engines else replace(one, needs=(f"file:{CONFIG}", *one.needs)) for one in made]
    return made


def _etcd(spec: HostSpec) -> Service:
    client, peer = f"http://{spec.address}:2379", f"http://{spec.address}:2380"
    members = {spec.name: spec.address}
    if spec.cluster.members > 1:
        members = {host_name(n): address for n, address in enumerate(spec.cluster.member_addresses(), start=1)}
    command = (
        *("/usr/bin/etcd", "--name", spec.name, "--data-dir", "/var/lib/yuntai/etcd"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
        *("--initial-cluster", ",".join(f"{name}=http://{address}:2380" for name, address in members.items())),
        *("--initial-cluster-token", spec.cluster.name),
        *("--heartbeat-interval", str(_ETCD_HEARTBEAT_MS), "--election-timeout", str(_ETCD_ELECTION_MS)),
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
    convert = f'[ "$(ovsdb-tool needs-conversion {file} {schema})" != yes ] || ovsdb-tool convert {file} {schema}'
    create = f"ovsdb-tool create {file}.new {schema}"
    if spec.cluster.members > 1:
        create, convert = _raft_create(which, f"{file}.new", schema, spec), ":"
    prepare = (
        f"mkdir -p /run/ovn /var/lib/yuntai/ovn\n"
        f"if [ ! -e {file} ]; then rm -f {file}.new; {create} && mv {file}.new {file}; else {convert}; fi"
    )
    return Service(
        name=f"ovn-{which}",
        package="ovn-central",
        command=command,
        answers=f"unix:/run/ovn/ovn{which}_db.sock",
        prepare=prepare,
    )


def _raft_create(which: str, file: str, schema: str, spec: HostSpec) -> str:
    """Return the command that makes a member's file of a database that all members hold: the first one founds it."""
    port = _RAFT_PORTS[which]
    own, *others = (f"tcp:{address}:{port}" for address in spec.cluster.member_addresses(spec.number))
    if spec.number == 1:
        return f"ovsdb-tool --election-timer={_OVN_ELECTION_MS} create-cluster {file} {schema} {own}"
    return f"ovsdb-tool join-cluster {file} {_OVN_SCHEMAS[which]} {own} {' '.join(others)}"


def _northd(spec: HostSpec) -> Service:
    sockets = {which: f"unix:/run/ovn/ovn{which}_db.sock" for which in ("nb", "sb")}
    databases, prepare = sockets, ""
    if spec.cluster.members > 1:
        # Only the leader of a clustered database serves northd, and it may be any member. A newer image's schema comes
        # in here, where the database as a whole answers: each member's file by itself cannot be converted.
        databases = {"nb": spec.ovn(OVN_NB_PORT), "sb": spec.ovn(OVN_SB_PORT)}
        prepare = "\n".join(
            f'[ "$(ovsdb-client --timeout=20 needs-conversion {databases[which]} /usr/share/ovn/ovn-{which}.ovsschema)"'
            f" != yes ] || ovsdb-client --timeout=20 convert {databases[which]} /usr/share/ovn/ovn-{which}.ovsschema"
            for which in ("nb", "sb")
        )
    return Service(
        name="ovn-northd",
        package="ovn-central",
        command=(
            *("ovn-northd", "--pidfile", *_OVS_LOG),
            *(f"--ovnnb-db={databases['nb']}", f"--ovnsb-db={databases['sb']}"),
        ),
        needs=(sockets["nb"], sockets["sb"]),
        answers="file:/run/ovn/ovn-northd.pid",
        prepare=prepare,
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
        "ovn-remote": spec.ovn(OVN_SB_PORT),
        "ovn-encap-type": "geneve",
        "ovn-encap-ip": spec.interface(spec.cluster.underlay).partition("/")[0],
        "ovn-bridge-datapath-type": "netdev",
        "ovn-bridge-mappings": "ext:br-ext",
        "ovn-monitor-all": "true",
    }
    # In quotes: a list of members has commas.
    words = ["set open_vswitch .", *(f"external_ids:{key}='\"{value}\"'" for key, value in settings.items())]
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
        needs=(f"unix:{VSWITCH_SOCKET}", "file:/run/openvswitch/ovs-vswitchd.pid", _any_of(spec.ovn(OVN_SB_PORT))),
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
    etcd, config = _any_etcd(spec), spec.config()
    master, api = f"tcp:{spec.address}:{config.master_port}", f"tcp:{spec.address}:{config.api_port}"
    return [
        _python("master", "yuntai.pangu", etcd, answers=master),
        _python("control", "yuntai.control", etcd, _any_of(spec.ovn(OVN_NB_PORT))),
        _python("api", "yuntai.api", etcd, answers=api),
    ]


def _compute(spec: HostSpec) -> list[Service]:
    etcd = _any_etcd(spec)
    return [
        _python("agent", "yuntai.compute", etcd, f"listen:{LIBVIRT_SOCKET}", f"unix:{VSWITCH_SOCKET}"),
        _python("guard", "yuntai.compute.guard", answers=f"tcp:{spec.address}:{spec.config().agent_port}"),
        _python("metadata", "yuntai.metadata", etcd),
    ]


def _any_of(remotes: str) -> str:
    """Return OVN's list of a database's members as the need for one of them."""
    return remotes.replace(",", "|")


def _any_etcd(spec: HostSpec) -> str:
    return "|".join(f"tcp:{endpoint}" for endpoint in spec.etcd)
