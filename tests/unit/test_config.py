from __future__ import annotations

import json
from pathlib import Path

import pytest

from yuntai import config, log
from yuntai.config import ChunkServer, Config, ConfigError

GOOD = Config(
    cluster="lab",
    host="h1",
    address="10.78.0.1",
    etcd=["10.78.0.1:2379"],
    chunkservers=[ChunkServer(id=1, rack="rack-1", port=7101, path="/x")],
)


def write(path: Path, **changes: object) -> Path:
    fields = json.loads(config.encode(GOOD))
    fields.update(changes)
    path.write_text(json.dumps(fields))
    return path


def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "yuntai.json"
    path.write_bytes(config.encode(GOOD))
    monkeypatch.setenv(config.PATH_VARIABLE, str(path))
    assert config.load() == GOOD


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cluster": ""}, "`cluster` is empty; give it a value"),
        ({"etcd": []}, "`etcd` is empty; list at least one endpoint"),
        ({"etcd": ["http://10.0.0.1"]}, "`etcd` has 'http://10.0.0.1'; write it as"),
        ({"api_port": 0}, "`api_port` is 0; choose a port from 1 to 65535"),
        ({"api_prot": 1}, "contains unknown field `api_prot`"),
        (
            {"chunkservers": [{"id": 1, "rack": "a", "port": 1, "path": "/a"}] * 2},
            "`chunkservers` has the same id twice",
        ),
        ({"address": 7}, "`$.address`; correct the field named there"),
    ],
)
def test_a_wrong_field_is_named_with_the_way_out(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path / "yuntai.json", **changes))
    assert says in str(caught.value)


def test_a_missing_file_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="or name another in YUNTAI_CONFIG"):
        config.load(tmp_path / "none.json")


def test_secrets_are_32_bytes_and_private(tmp_path: Path) -> None:
    path = tmp_path / "cluster"
    path.write_text("ab" * 32 + "\n")
    path.chmod(0o600)
    assert config.read_secret(path) == b"\xab" * 32
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="run: chmod 600"):
        config.read_secret(path)
    path.chmod(0o600)
    for text in ("ab" * 31, "zz" * 32, ""):
        path.write_text(text)
        with pytest.raises(ConfigError, match="is not 64 hexadecimal digits"):
            config.read_secret(path)
    with pytest.raises(ConfigError, match="copy it from another host"):
        config.read_secret(tmp_path / "none")


def test_a_level_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of debug, info, warning, error"):
        log.setup("test", level="loud")
