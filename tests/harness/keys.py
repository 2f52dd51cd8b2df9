"""Certificates for tests of TLS, made with openssl."""

import subprocess
from pathlib import Path


def _openssl(*arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=30)


def make_keys(folder: Path) -> Path:
    """Writes ca.pem, and server.pem and client.pem that it signed, with their keys; returns the
    folder."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    authority = ("-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    _openssl("req", *curve, *authority, folder=folder)
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "client"):
        request = ("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        _openssl("req", *curve, *request, folder=folder)
        signed = ("-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", "names", "-days", "2")
        signer = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        _openssl("x509", "-req", *signed, *signer, folder=folder)
    return folder
