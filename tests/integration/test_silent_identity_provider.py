"""An identity provider that takes connections and says nothing: it holds few, and not for long."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from dicom_node.errors import SignOnError
from dicom_node.web.access.oidc import IdentityProvider
from models.people_sections import OidcSettings

TIMEOUT = 6.0


@dataclass
class Silent:
    """A provider whose port takes connections, and what those who ask it are told."""

    server: socket.socket
    seconds: list[float] = field(default_factory=list)
    offset: float = 0.0

    def __post_init__(self) -> None:
        issuer = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        given = {"issuer": issuer, "client_id": "node", "roles": {"it": "admin"}}
        settings = OidcSettings.model_validate({**given, "timeout_seconds": TIMEOUT})
        found = IdentityProvider.of(settings, "http://127.0.0.1:8080")
        assert found is not None
        found.monotonic = lambda: time.monotonic() + self.offset
        self.provider = found

    def ask(self) -> None:
        """Be refused, and note how long that took."""
        start = time.monotonic()
        with pytest.raises(SignOnError, match="does not answer: try again in a minute"):
            self.provider.address("seed")
        self.seconds.append(time.monotonic() - start)

    def connections(self) -> int:
        """Return how many came since the last question."""
        self.server.settimeout(0.2)
        count = 0
        try:
            while True:
                self.server.accept()[0].close()
                count += 1
        except TimeoutError:
            return count


@pytest.fixture
def silent() -> Iterator[Silent]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield Silent(server)


def test_many_who_come_at_once_do_not_wait_for_each_other(silent: Silent) -> None:
    threads = [threading.Thread(target=silent.ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    longest = sorted(silent.seconds)
    assert len(longest) == 40
    assert longest[-1] >= TIMEOUT  # the one who asked
    assert longest[-2] < TIMEOUT - 0.5
    assert sum(each > 0.9 for each in longest) <= 16  # the others were told at once
    assert silent.connections() == 1


def test_it_is_asked_again_after_half_a_minute(silent: Silent) -> None:
    silent.ask()
    silent.ask()
    assert silent.seconds[1] < TIMEOUT / 2
    assert silent.connections() == 1
    silent.offset = 31.0
    silent.ask()
    assert silent.connections() == 1
