"""Several listener processes on one port: a Python process uses one core, a burst of images more.

The parent binds the ports and forks; it has no threads, no database and no other work than to fork
again what died. Every child waits on the same sockets, and the busier one takes its time
(`NodeServer.get_request`), so associations spread over them. A child that dies takes its own
associations with it, and no others.
"""

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Final, NoReturn

from dicom_node.listener import serve
from dicom_node.ports import Ports, bind
from dicom_node.processes import die_with_parent
from dicom_node.tls import ServerCredentials
from models.session import Database
from models.settings import Settings

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.2
_PAUSE_SECONDS: Final = 1.0  # before a process that died is started again
_FAILED: Final = 1


def run(settings: Settings, open_database: Callable[[], Database], stop: threading.Event) -> None:
    """Serve by as many processes as the settings say, until `stop` is set.

    Raises StartError when a port cannot be had or a file of `dicom.tls` cannot be used. `stop` must
    be set by a signal handler, which the children inherit.
    """
    if settings.dicom.tls.port is not None:
        ServerCredentials(settings.dicom.tls)  # else each child finds out, and starts again
    ports = bind(settings.dicom)
    number = settings.dicom.listener_processes
    if number == 1:
        serve(settings, open_database(), ports, stop)
        return
    _Family(_share(settings, number), open_database, ports, stop).run(number)


def _share(settings: Settings, number: int) -> Settings:
    """Return the settings of one of `number` processes: its part of the associations."""
    dicom = settings.dicom
    part = -(-dicom.max_associations // number)
    return settings.model_copy(
        update={"dicom": dicom.model_copy(update={"max_associations": part})}
    )


class _Family:
    """The parent's view of its children."""

    def __init__(
        self,
        settings: Settings,
        open_database: Callable[[], Database],
        ports: Ports,
        stop: threading.Event,
    ) -> None:
        self._settings, self._open_database = settings, open_database
        self._ports, self._stop = ports, stop
        self._children: set[int] = set()

    def run(self, number: int) -> None:
        """Keep `number` children alive until the signal, then have them end."""
        gc.freeze()  # what is loaded by now stays: collecting would touch, and copy, all of it
        for _ in range(number):
            self._fork()
        while not self._stop.wait(_POLL_SECONDS):
            self._replace_dead()
        self._ports.close()  # with the children's: who connects now is refused, and does not wait
        for child in self._children:
            os.kill(child, signal.SIGTERM)
        for child in self._children:
            os.waitpid(child, 0)

    def _replace_dead(self) -> None:
        for child in list(self._children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended:
                continue
            self._children.discard(child)
            code = os.waitstatus_to_exitcode(status)
            log.error("listener process %d ended with %d; another one starts", child, code)
            time.sleep(_PAUSE_SECONDS)
            if not self._stop.is_set():
                self._fork()

    def _fork(self) -> None:
        child = os.fork()
        if child == 0:
            self._serve()
        self._children.add(child)

    def _serve(self) -> NoReturn:
        """Be a child: serve until the signal, and end without the parent's clean-up."""
        code = _FAILED
        try:
            die_with_parent()
            serve(self._settings, self._open_database(), self._ports, self._stop)
            code = 0
        except Exception:
            log.exception("a listener process cannot go on")
        finally:
            logging.shutdown()
            os._exit(code)
