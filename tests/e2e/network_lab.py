"""A machine of network namespaces for tests: a node, pods, an outside; and servers inside them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def sh(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


class Machine:
    """Namespaces of one test; ``inside`` runs a function in one of them."""

    def __init__(self) -> None:
        self.stem = f"kt{uuid.uuid4().hex[:6]}"
        self.made: list[str] = []
        self.node = self.add("node")
        sh(f"ip -n {self.name('node')} link set lo up")

    def name(self, short: str) -> str:
        return f"{self.stem}-{short}"

    def add(self, short: str) -> str:
        sh(f"ip netns add {self.name(short)}")
        self.made.append(self.name(short))
        return f"/run/netns/{self.name(short)}"

    def close(self) -> None:
        for name in self.made:
            sh(f"ip netns del {name}")

    def inside(self, path: str, function: Callable[[], T]) -> T:
        """The answer of ``function``, run in a thread of its own in the namespace."""
        outcome: list[Any] = []

        def enter() -> None:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0x40000000):
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(descriptor)
            try:
                outcome.append((function(), None))
            except BaseException as err:
                outcome.append((None, err))

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        value, error = outcome[0]
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    def on_node(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self.inside(self.node, lambda: asyncio.run(work()))


@contextmanager
def machines() -> Iterator[Machine]:
    made = Machine()
    try:
        yield made
    finally:
        made.close()


class Echo:
    """A TCP server in a namespace that answers with its name and the caller's address."""

    def __init__(self, machine: Machine, path: str, name: str, port: int) -> None:
        self.name = name
        self.listener = machine.inside(path, lambda: socket.create_server(("0.0.0.0", port)))
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, caller = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(f"{self.name} {caller[0]}".encode())

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


def call(address: str, port: int, *, source: str = "") -> str:
    with socket.create_connection((address, port), timeout=3, source_address=(source, 0)) as connection:
        data = b""
        while chunk := connection.recv(100):
            data += chunk
        return data.decode()
