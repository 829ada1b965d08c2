"""A Redis that can also be stopped politely, emptied, and have its clients' connections killed."""

import contextlib
import shutil
import signal
import socket
from collections.abc import Iterator

import psutil
import redis
from fault_servers import RedisServer
from servers import wait_until


class Broker(RedisServer):
    """The broker of one node, with what a fault shows of itself."""

    def stop(self) -> int:
        """Stop it by SIGTERM; what it wrote to disk stays. Returns its status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def forget(self) -> None:
        """Remove what a stopped server left on disk."""
        shutil.rmtree(self._folder / "appendonlydir", ignore_errors=True)
        (self._folder / "dump.rdb").unlink(missing_ok=True)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[psutil.Process]:
        """Stop the process by SIGSTOP for a block: connections stay open and nobody answers."""
        process = psutil.Process(self.pid)
        self.freeze()
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, 10, "SIGSTOP")
        try:
            yield process
        finally:
            self.thaw()

    def client(self) -> redis.Redis:
        """Return a client that gives up after a second."""
        return redis.Redis(port=self.port, socket_timeout=1, socket_connect_timeout=1, retry=None)

    def is_silent(self) -> bool:
        """Say whether PING stays without an answer."""
        try:
            with contextlib.closing(self.client()) as client:
                client.ping()
        except redis.RedisError:
            return True
        return False

    def refuses(self) -> bool:
        """Say whether nobody listens on its port."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) != 0

    def kill_clients(self) -> int:
        """End every client's connection by CLIENT KILL; return how many there were."""
        with contextlib.closing(self.client()) as client:
            kinds = ("NORMAL", "PUBSUB")
            return sum(int(client.execute_command("CLIENT", "KILL", "TYPE", k)) for k in kinds)

    def messages(self) -> int:
        """Return how many messages wait in all queues of database 0, taken ones included."""
        with contextlib.closing(self.client()) as client:
            lists = [key for key in client.scan_iter() if client.type(key) == b"list"]
            return sum(client.llen(key) for key in lists) + client.hlen("unacked")
