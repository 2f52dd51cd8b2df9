"""Certificates for tests of TLS, made with openssl."""

import subprocess
from pathlib import Path

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

EVERYWHERE = "DNS:localhost,IP:127.0.0.1"


def _openssl(*arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=30)


def make_keys(folder: Path) -> Path:
    """Writes ca.pem, and server.pem and client.pem that it signed, with their keys; returns the
    folder."""
    make_authority(folder)
    for name in ("server", "client"):
        make_certificate(folder, name)
    return folder


def make_authority(folder: Path, name: str = "ca") -> None:
    """Writes NAME.pem and NAME.key."""
    files = ("-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    _openssl("req", *_CURVE, "-x509", *files, "-days", "2", folder=folder)


def make_certificate(
    folder: Path, name: str, *, names: str = EVERYWHERE, authority: str = "ca", subject: str = ""
) -> None:
    """Writes NAME.pem and NAME.key; `names` are alternative ones, of a common name NAME, unless
    `subject` says otherwise."""
    asked = ("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject or f"/CN={name}")
    _openssl("req", *_CURVE, *asked, folder=folder)
    (folder / "names").write_text(f"subjectAltName={names}" if names else "")
    signed = ("-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", "names", "-days", "2")
    signer = ("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial")
    _openssl("x509", "-req", *signed, *signer, folder=folder)
