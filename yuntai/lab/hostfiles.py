"""The files of a host's /etc, made from its spec: our configuration, the supervisor's, the engines'. Pure text."""

from __future__ import annotations

import hashlib
import shlex

from yuntai.config import encode
from yuntai.lab.services import CONFIG, Service, services
from yuntai.lab.spec import HostSpec

HOOKS = "/etc/yuntai/hooks"
WAIT = "/opt/yuntai/src/yuntai/lab/wait.py"
SUPERVISOR_CONFIG = "/etc/yuntai/supervisord.conf"
SUPERVISOR_SOCKET = "/run/supervisor.sock"
LOG_BYTES = 10 * 1024 * 1024
LOG_BACKUPS = 3
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {
    "PATH": PATH,
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONPATH": "/opt/yuntai/src",
    # The source is read-only in a host: compiled modules go where they can be kept.
    "PYTHONPYCACHEPREFIX": "/var/cache/yuntai/pycache",
    "PYTHONUNBUFFERED": "1",
    "YUNTAI_CONFIG": CONFIG,
}


def host_files(spec: HostSpec, host_uuid: str) -> dict[str, tuple[str, int]]:
    """Return every file of the host as path → (text, mode)."""
    chosen = services(spec)
    files = {
        "/etc/hostname": (f"{spec.name}\n", 0o644),
        "/etc/hosts": (f"127.0.0.1 localhost\n::1 localhost\n{spec.address} {spec.name}\n", 0o644),
        "/etc/resolv.conf": ("", 0o644),
        CONFIG: (encode(spec.config()).decode(), 0o644),
        SUPERVISOR_CONFIG: (supervisor_config(chosen), 0o600),
        "/etc/libvirt/libvirtd.conf": (libvirtd_config(spec, host_uuid), 0o644),
        "/etc/libvirt/qemu.conf": (qemu_config(spec), 0o644),
    }
    if spec.bare:
        del files[CONFIG]  # joining brings it
    for service in chosen:
        for hook, script in (("prepare", service.prepare), ("after", service.after)):
            if script:
                files[f"{HOOKS}/{service.name}.{hook}"] = (f"#!/bin/sh\nset -eu\n{script}\n", 0o755)
    return files


def files_digest(spec: HostSpec, host_uuid: str) -> str:
    """Return a hash of the host's files: a host whose files would differ now must be started anew."""
    text = "".join(f"{path}\0{content}\0{mode}\0" for path, (content, mode) in host_files(spec, host_uuid).items())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def launch_command(service: Service) -> list[str]:
    """Return the command by which the supervisor starts ``service``."""
    command = ["/usr/bin/python3", "-IS", WAIT, "--name", service.name]
    for need in service.needs:
        command += ["--need", need]
    if service.prepare:
        command += ["--prepare", f"{HOOKS}/{service.name}.prepare"]
    if service.after:
        command += ["--after", f"{HOOKS}/{service.name}.after"]
    return [*command, "--", *service.command]


def supervisor_config(chosen: list[Service]) -> str:
    """Return supervisord's configuration.

    ``startsecs=0`` keeps the supervisor from ever giving a program up: the pause between tries is in ``wait.py``.
    """
    environment = ",".join(f'{key}="{value}"' for key, value in ENVIRONMENT.items())
    sections = [
        f"[unix_http_server]\nfile={SUPERVISOR_SOCKET}\nchmod=0600\n",
        (
            "[supervisord]\nnodaemon=true\nuser=root\nlogfile=/var/log/yuntai/supervisord.log\n"
            f"logfile_maxbytes={LOG_BYTES}\nlogfile_backups={LOG_BACKUPS}\nloglevel=info\npidfile=/run/supervisord.pid\n"
            f"childlogdir=/var/log/yuntai\nminfds=1024\nenvironment={environment}\n"
        ),
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n",
        f"[supervisorctl]\nserverurl=unix://{SUPERVISOR_SOCKET}\n",
    ]
    sections += [_program(service, priority) for priority, service in enumerate(chosen, start=1)]
    return "\n".join(sections)


def _program(service: Service, priority: int) -> str:
    command = shlex.join(launch_command(service)).replace("%", "%%")
    return (
        f"[program:{service.name}]\ncommand={command}\npriority={priority}\ndirectory=/\n"
        "autostart=true\nautorestart=true\nstartsecs=0\n"
        f"stopsignal=TERM\nstopwaitsecs={service.stop_wait_s}\n"
        f"redirect_stderr=true\nstdout_logfile=/var/log/yuntai/{service.name}.log\n"
        f"stdout_logfile_maxbytes={LOG_BYTES}\nstdout_logfile_backups={LOG_BACKUPS}\n"
    )


def libvirtd_config(spec: HostSpec, host_uuid: str) -> str:
    """Return libvirtd's configuration: live migration comes in by plain TCP, on the lab's own network only."""
    return (
        f'host_uuid = "{host_uuid}"\nlisten_tls = 0\nlisten_tcp = 1\nlisten_addr = "{spec.address}"\n'
        'auth_tcp = "none"\nauth_unix_rw = "none"\nunix_sock_rw_perms = "0700"\nlog_outputs = "3:stderr"\n'
    )


def qemu_config(spec: HostSpec) -> str:
    """Return the QEMU driver's configuration: a lab host is itself the sandbox, its guests run as its root."""
    return (
        'user = "root"\ngroup = "root"\nsecurity_driver = "none"\nremember_owner = 0\nnamespaces = []\n'
        'stdio_handler = "file"\n'
        # A migration whose link was cut ends after so long, and not after half a minute in which the guest may stand.
        "keepalive_interval = 1\nkeepalive_count = 4\n"
        f'migration_address = "{spec.address}"\nmigration_host = "{spec.address}"\n'
    )
