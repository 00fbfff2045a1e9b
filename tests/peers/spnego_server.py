"""A WS-Management server whose NTLM is pyspnego's: DIRECTORY_OF_ANSWERS [CERTIFICATE_AND_KEY].

Over plain HTTP it takes sealed messages only; over TLS it demands channel bindings. It answers every authenticated
request with the recorded product, and prints its port first. Accounts come from the file NTLM_USER_FILE.
"""

import base64
import http.server
import pathlib
import ssl
import struct
import sys

import spnego
import spnego.channel_bindings
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

answers = pathlib.Path(sys.argv[1])
pem = sys.argv[2] if len(sys.argv) > 2 else None
bindings = None
if pem:
    certificate = x509.load_pem_x509_certificate(pathlib.Path(pem).read_bytes())
    digest = hashes.Hash(certificate.signature_hash_algorithm)
    digest.update(certificate.public_bytes(serialization.Encoding.DER))
    bindings = spnego.channel_bindings.GssChannelBindings(
        application_data=b"tls-server-end-point:" + digest.finalize()
    )

BOUNDARY = b"--Encrypted Boundary"
TYPE = 'multipart/encrypted;protocol="application/HTTP-SPNEGO-session-encrypted";boundary="Encrypted Boundary"'


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    context = None

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        authorization = self.headers.get("Authorization")
        if authorization:
            token = base64.b64decode(authorization.split(" ", 1)[1])
            if token[8] == 1:
                self.context = spnego.server(protocol="ntlm", channel_bindings=bindings)
            try:
                out = self.context.step(token)
            except spnego.exceptions.SpnegoError as error:
                print("refused:", error, file=sys.stderr)
                self.context = None
                return self.answer(401, WWW_Authenticate="Negotiate")
            if out:
                return self.answer(401, WWW_Authenticate="Negotiate " + base64.b64encode(out).decode())
        if not self.context or not self.context.complete:
            return self.answer(401, WWW_Authenticate="Negotiate")
        product = (answers / "get_product.xml").read_bytes()
        if pem:
            assert b"SoftwareLicensingProduct" in body, "the request is readable under TLS"
            return self.answer(200, product, Content_Type="application/soap+xml;charset=UTF-8")
        head, octets = body.split(BOUNDARY + b"\r\n")[1:]
        octets = octets.split(b"application/octet-stream\r\n", 1)[1][: -len(BOUNDARY + b"--\r\n")]
        (length,) = struct.unpack("<I", octets[:4])
        plain = self.context.unwrap_winrm(octets[4 : 4 + length], octets[4 + length :])
        assert ("Length=%d\r\n" % len(plain)).encode() in head, "the plain length is said"
        assert b"SoftwareLicensingProduct" in plain, "the request can be opened"
        header, sealed, _ = self.context.wrap_winrm(product)
        sealed_body = (
            BOUNDARY
            + b"\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n"
            + b"\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=%d\r\n" % len(product)
            + BOUNDARY
            + b"\r\n\tContent-Type: application/octet-stream\r\n"
            + struct.pack("<I", len(header))
            + header
            + sealed
            + BOUNDARY
            + b"--\r\n"
        )
        self.answer(200, sealed_body, Content_Type=TYPE)

    def log_message(self, *args):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
if pem:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
