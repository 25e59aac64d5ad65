from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from yuntai.network import ovsdb_schema


@contextmanager
def member(*answers: bytes) -> Iterator[str]:
    """Run a server that answers its one client with these pieces, or says nothing at all."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                assert json.loads(client.recv(4096))["params"] == ["OVN_Northbound"]
                for piece in answers:
                    client.sendall(piece)

        thread = threading.Thread(target=serve, daemon=True)
        if answers:
            thread.start()
        yield f"tcp:127.0.0.1:{server.getsockname()[1]}"
        if answers:
            thread.join(10)


def answer(**fields: object) -> bytes:
    return json.dumps({"id": 1, "error": None, "result": None, **fields}).encode()


def test_the_schema_comes_in_pieces_and_may_end_them_with_a_brace() -> None:
    raw = answer(result={"name": "OVN_Northbound", "tables": {"a": {}, "b": {}}})
    cut = raw.index(b"}") + 1
    with member(raw[:cut], raw[cut:]) as remote:
        assert ovsdb_schema.fetch(remote, "OVN_Northbound", 10)["tables"] == {"a": {}, "b": {}}


def test_a_member_that_hangs_or_refuses_is_passed_over(tmp_path: Path) -> None:
    with member() as silent, member(answer(error="unknown database")) as other, member(answer(result={"x": 1})) as good:
        remotes = f"{silent},{other},unix:{tmp_path}/nobody,{good}"
        assert ovsdb_schema.fetch(remotes, "OVN_Northbound", 1.0) == {"x": 1}


def test_when_no_member_answers_each_one_is_named() -> None:
    with member() as silent, pytest.raises(ovsdb_schema.SchemaError) as caught:
        ovsdb_schema.fetch(f"{silent},ssl:1:2", "OVN_Northbound", 0.2)
    assert str(caught.value) == f"{silent}: timed out; ssl:1:2: write tcp:ADDRESS:PORT or unix:PATH"
