"""OHIF's own build and a DICOMweb server behind one HTTP port: the browser sees one origin."""

import contextlib
import http.client
import http.server
import mimetypes
import threading
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final

ORTHANC: Final = """window.config = {
  routerBasename: null, extensions: [], modes: [], showStudyList: true,
  investigationalUseDialog: { option: 'never' },
  defaultDataSourceName: 'orthanc',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'orthanc',
    configuration: {
      friendlyName: 'Orthanc', name: 'orthanc',
      qidoRoot: '/dicom-web', wadoRoot: '/dicom-web', wadoUriRoot: '/wado',
      qidoSupportsIncludeField: true, imageRendering: 'wadors', thumbnailRendering: 'wadors',
      enableStudyLazyLoad: true, supportsFuzzyMatching: false, supportsWildcard: true,
      omitQuotationForMultipartRequest: true, bulkDataURI: { enabled: true },
    },
  }],
};
"""
_PASSED_ON: Final = ("Accept", "Host")


@contextlib.contextmanager
def serving(
    ohif: Path,
    port: int,
    configuration: str = ORTHANC,
    credentials: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Serve the folder `ohif` (the `dist` of its package); yield the URL of its root.

    DICOMweb comes from `port`, which is told the headers in `credentials`.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        """Files of OHIF, its configuration, and DICOMweb from elsewhere."""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.startswith(("/dicom-web", "/wado")):
                self._from_elsewhere()
            elif path == "/app-config.js":
                self._send(configuration.encode(), "text/javascript")
            else:
                file = ohif / path.lstrip("/")
                file = file if file.is_file() else ohif / "index.html"  # a route of the viewer
                kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
                self._send(file.read_bytes(), kind)

        def _from_elsewhere(self) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            headers = {key: value for key in _PASSED_ON if (value := self.headers[key])}
            headers |= credentials or {}
            try:
                connection.request("GET", self.path, headers=headers)
                answer = connection.getresponse()
                kind = answer.getheader("Content-Type", "application/octet-stream")
                self._send(answer.read(), kind, answer.status)
            finally:
                connection.close()

        def _send(self, body: bytes, kind: str, status: int = HTTPStatus.OK) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  http.server's
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
