"""A real S3 server for the tests: the one of moto, in the memory of a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import boto3
from botocore.config import Config
from servers import free_port, wait_until

CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass
class S3Server:
    """A server on this machine, and who looks into it past the node."""

    port: int
    process: "subprocess.Popen[bytes]"
    client: Any = field(init=False)

    def __post_init__(self) -> None:
        self.client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
            config=Config(proxies={}, retries={"total_max_attempts": 1}),
        )

    @property
    def endpoint(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process must know to reach it."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.endpoint}

    def make_bucket(self, name: str) -> str:
        """Make a bucket and return its URL."""
        self.client.create_bucket(Bucket=name)
        return f"s3://{name}"

    def keys(self, bucket: str) -> list[str]:
        """Return the full keys of everything in a bucket, in order."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sorted(each["Key"] for page in pages for each in page.get("Contents", ()))

    def freeze(self) -> None:
        """Stop it from answering; connections are accepted and nothing comes."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it answer again."""
        self.process.send_signal(signal.SIGCONT)

    def is_up(self) -> bool:
        """Say whether it answers."""
        try:
            self.client.list_buckets()
        except Exception:  # noqa: BLE001  whatever the client says: not yet
            return False
        return True


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server while the block runs."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    with subprocess.Popen(command, env=environment, **quiet) as process:
        server = S3Server(port, process)
        try:
            wait_until(server.is_up, 120, "the S3 server answers")
            yield server
        finally:
            server.client.close()
            process.kill()
