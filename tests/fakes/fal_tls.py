"""fal's four host names on this machine: a certificate authority, and a proxy that leads them here.

Nothing but 127.0.0.1 is dialled: the proxy ends the TLS connection itself.
"""

import datetime
import http.client
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PLACES = {
    "queue.fal.run": "/queue",
    "fal.run": "/run",
    "rest.fal.ai": "/rest",
    "v3.fal.media": "/cdn",
}


@dataclass(frozen=True)
class Certificates:
    """Files: `ca` for clients, `chain` and `key` for a server of `PLACES` and of this machine."""

    ca: Path
    chain: Path
    key: Path


def certificates(folder: Path) -> Certificates:
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
    ca = (
        _begun(ca_name, ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False)
        .sign(ca_key, hashes.SHA256())
    )
    names = [x509.DNSName(name) for name in ("localhost", *PLACES)]
    own = [*names, x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    certificate = (
        _begun(x509.Name([]), ca_name, key.public_key())
        .add_extension(x509.SubjectAlternativeName(own), critical=True)
        .add_extension(issuer, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    found = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    found.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    found.chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    found.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return found


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )


class Connect(BaseHTTPRequestHandler):
    """Takes `CONNECT host:443`, plays that host, and passes requests on to the API."""

    protocol_version = "HTTP/1.1"
    prefix = ""

    def do_CONNECT(self) -> None:
        self.prefix = PLACES[self.path.removesuffix(":443")]
        self.wfile.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        context: ssl.SSLContext = self.server.context  # type: ignore[attr-defined]
        self.connection = context.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)  # type: ignore[assignment]
        self.close_connection = False

    def pass_on(self) -> None:
        api = urlsplit(self.server.api)  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        inner = http.client.HTTPConnection(api.netloc, timeout=30)
        try:
            inner.request(self.command, f"{api.path}{self.prefix}{self.path}", body, headers)
            answer = inner.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            while piece := answer.read1(65536):
                self.wfile.write(piece)
        finally:
            inner.close()

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name in ("do_GET", "do_POST", "do_PUT"):
            return self.pass_on
        raise AttributeError(name)

    def finish(self) -> None:
        super().finish()
        if isinstance(self.connection, ssl.SSLSocket):
            self.connection.close()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def connect_proxy(api: str, own: Certificates) -> Iterator[str]:
    """Address for `HTTPS_PROXY`; what is asked of fal's hosts is answered by `api`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Connect)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.chain, own.key)
    server.api, server.context = api, context  # type: ignore[attr-defined]
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
