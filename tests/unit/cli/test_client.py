"""The command line's client of the API where the connection is cut off before an answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from yuntai.cli import client
from yuntai.cli.client import ECS, Api, Credentials, UnreachableError

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\nConnection: close\r\n\r\n{"Regions": "ok"}'
Serve = Callable[[int], Api]


@pytest.fixture
def cutting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Return a maker of clients whose API cuts the first so many connections off without an answer."""
    monkeypatch.setattr(client, "AGAIN_PAUSE_S", 0.01)
    listener = socket.create_server(("127.0.0.1", 0))
    cuts = [0]

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                if cuts[0]:
                    cuts[0] -= 1
                else:
                    connection.sendall(ANSWER)

    serving = threading.Thread(target=serve)
    serving.start()

    def api(first: int) -> Api:
        cuts[0] = first
        return Api(
            Credentials(
                endpoint=f"http://127.0.0.1:{listener.getsockname()[1]}", access_key_id="k", access_key_secret="s"
            )
        )

    yield api
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    serving.join()


def test_a_question_that_is_cut_off_is_asked_again(cutting: Serve) -> None:
    assert cutting(client.TRIES_MAX - 1).ecs("DescribeRegions") == {"Regions": "ok"}


def test_a_question_is_not_asked_for_ever(cutting: Serve) -> None:
    with pytest.raises(UnreachableError, match="does not answer"):
        cutting(client.TRIES_MAX).ecs("DescribeRegions")


def test_a_change_that_is_cut_off_is_not_made_twice(cutting: Serve) -> None:
    with pytest.raises(UnreachableError, match="whether StopInstance was carried out is not known"):
        cutting(1).ecs("StopInstance", InstanceId="i-1")


def test_a_change_with_a_client_token_is_asked_for_again(cutting: Serve) -> None:
    assert cutting(1).call(ECS, "CreateDisk", ClientToken="once") == {"Regions": "ok"}
