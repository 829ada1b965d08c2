"""One node spread over hosts: intake and delivery on `front`, one worker on each other host.

They share PostgreSQL and Redis, which run on the machine of the tests, and an S3 server, which has
a host of its own (`storage`) so that its cable can be taken out. Nothing else: see hosts_wiring.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3
import servers
from botocore.config import Config
from botocore.exceptions import ClientError
from brokers import Broker
from crashing import INJECTED, VARIABLE, Armed
from fault_nodes import Node, Role
from fault_servers import PostgresServer, answers, postgres_server
from hosts_wiring import Host, HostRole, Network

from dicom_node.demo.pacs import OrthancPacs

FRONT: Final = "front"
_ROLES: Final = ("listen", "dispatch", "deliver")
_S3_PORT: Final = 9000
_BUCKET, _PREFIX = "archive", "node"
_FOLDERS: Final = {"spool": "images", "artifacts": "artifacts"}
_CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}
LEASE_SECONDS: Final = 15


class S3Server:
    """An S3 server in the memory of a host, with one bucket."""

    def __init__(self, host: Host, log: Path, environment: Mapping[str, str]) -> None:
        self.host = host
        command = [sys.executable, "-m", "moto.server", "-H", host.address, "-p", str(_S3_PORT)]
        self._role: HostRole = host.start("s3", command, environment, log)
        self._role.wait_ready(lambda: answers(_S3_PORT, host.address))
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=self._endpoint,
            aws_access_key_id=_CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region_name=_CREDENTIALS["AWS_DEFAULT_REGION"],
            config=Config(proxies={}),
        )
        self._client.create_bucket(Bucket=_BUCKET)

    @property
    def _endpoint(self) -> str:
        return f"http://{self.host.address}:{_S3_PORT}"

    @property
    def settings(self) -> dict[str, str]:
        """What a host must know to use it."""
        url = f"s3://{_BUCKET}/{_PREFIX}"
        return {**_CREDENTIALS, "AWS_ENDPOINT_URL": self._endpoint, "DICOM_NODE_STORAGE_URL": url}

    def keys(self, folder: str) -> set[str]:
        """Return the storage keys of everything stored below a folder of the node."""
        pages = self._client.get_paginator("list_objects_v2")
        begin = f"{_PREFIX}/{folder}/"
        return {
            str(each["Key"]).removeprefix(begin)
            for page in pages.paginate(Bucket=_BUCKET, Prefix=begin)
            for each in page.get("Contents", ())
        }

    def get(self, folder: str, key: str) -> bytes | None:
        """Return an object; None: there is none."""
        try:
            found = self._client.get_object(Bucket=_BUCKET, Key=f"{_PREFIX}/{folder}/{key}")
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise
        with found["Body"] as body:
            return bytes(body.read())

    def close(self) -> None:
        self._client.close()


class SpreadNode(Node):
    """The roles of one node: a worker has the name of its host, every other role is on `front`."""

    def __init__(self, network: Network, s3: S3Server, **addresses: Any) -> None:
        self._network, self._s3 = network, s3
        self.hosts = {FRONT: network.host(FRONT)}
        settings = {
            "DICOM_NODE_DICOM__HOST": "0.0.0.0",  # noqa: S104  on a network of its own
            "DICOM_NODE_DISPATCH__SETTLE_SECONDS": "4",  # between two images of one study
            "DICOM_NODE_WORKER__LEASE_SECONDS": str(LEASE_SECONDS),
        }
        super().__init__(network.disk / "node", **addresses, **settings, **s3.settings)

    @property
    def front(self) -> Host:
        """The host that receives, dispatches and delivers."""
        return self.hosts[FRONT]

    @property
    def _crash_folder(self) -> Path:
        return self.data_dir.with_name("crash")

    def armed(self) -> Armed:
        """Return the crash points of the listener."""
        return Armed(self.front.outside(self._crash_folder))

    def switch_on(self, *names: str) -> None:
        """Have a worker on each of these hosts; a host that is off is there anew, without files."""
        for name in names:
            if name not in self.hosts or not self.hosts[name].is_on:
                self.hosts[name] = self._network.host(name)
        self.start(*(name for name in names if not self.is_running(name)))

    def replace_front(self) -> None:
        """Have a front host with an empty disk in place of the one that is off."""
        self.hosts[FRONT] = self._network.host(FRONT)

    def restart_front(self) -> None:
        """Start what is missing on the front host."""
        self.start(*(name for name in _ROLES if not self.is_running(name)))

    def _launch(self, name: str, environment: Mapping[str, str]) -> Role:
        host = self.hosts.get(name, self.front)
        program = ["dicom_node", name] if host is self.front else ["worker", "run"]
        command = [sys.executable, "-m", *program, "--data-dir", str(self.data_dir)]
        log = self._network.disk.with_name(f"{name}.log")
        if name == "listen":
            injected = {VARIABLE: str(self._crash_folder), "PYTHONPATH": str(INJECTED)}
            environment = {**environment, **injected}
        return host.start(name, command, environment, log)

    def _readiness(self, role: Role) -> Any:
        if role.name == "listen":
            return lambda: answers(self.port, self.front.address)
        if role.name in self.hosts:
            return lambda: "models loaded" in role.said()
        return lambda: True

    def run(self, *command: str) -> Any:
        """Run a command of the node on the front host."""
        words = [sys.executable, "-m", "dicom_node", *command, "--data-dir", str(self.data_dir)]
        return self.front.call(*words, environment=self.environment)

    def spool_keys(self) -> set[str]:
        """Return the storage key of every received object in the bucket."""
        return self._s3.keys(_FOLDERS["spool"])

    def stored(self, folder: str, key: str) -> bytes | None:
        """Return an object of the bucket."""
        return self._s3.get(_FOLDERS[folder], key)

    @property
    def incoming(self) -> list[Path]:
        """Files that the front host is receiving, or was."""
        return list(self.front.outside(self.data_dir / "spool" / "incoming").iterdir())


@dataclass(frozen=True)
class Site:
    """A node on several hosts, what they share, and the PACS."""

    network: Network
    node: SpreadNode
    postgres: PostgresServer
    redis: Broker
    storage: Host
    pacs: OrthancPacs


@contextmanager
def site(network: Network, folder: Path, orthanc: Path) -> Iterator[Site]:
    """Run the shared servers, the PACS and the front host, whose roles are not started."""
    binaries, redis = servers.find_postgres(), servers.find_redis()
    assert binaries is not None
    assert redis is not None
    with ExitStack() as stack:
        broker = Broker(redis, folder / "redis", address=network.address)
        stack.callback(broker.close)
        postgres = stack.enter_context(postgres_server(binaries, network.address))
        pacs = OrthancPacs(orthanc, folder / "orthanc")
        stack.callback(pacs.close)
        storage = network.host("storage", for_all=True)
        environment = {"PATH": "/usr/bin:/bin"}
        s3 = S3Server(storage, folder / "s3.log", environment)
        stack.callback(s3.close)
        node = SpreadNode(
            network,
            s3,
            broker_url=broker.start().url(),
            database_url=postgres.url(),
            pacs=(f"{pacs.ae_title}@{network.address}:{pacs.port}",),
        )
        stack.callback(node.close)
        yield Site(network, node, postgres, broker, storage, pacs)
