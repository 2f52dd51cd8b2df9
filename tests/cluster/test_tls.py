"""Every hop encrypted and every peer known by its certificate, on a real cluster."""

import shutil
import subprocess
from pathlib import Path

import pytest
from harness.kubectl import CHART, Release, image_values, new_namespace

SECRET = "keys"


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes keys with openssl")
def test_a_completion_is_answered_over_mutual_tls(image: str, tmp_path: Path) -> None:
    with new_namespace() as namespace:
        release = Release(name="locked", namespace=namespace)
        make_keys(tmp_path, release.fullname)
        files = [
            f"--from-file={name}={tmp_path / name}" for name in ("tls.crt", "tls.key", "ca.crt")
        ]
        namespace.kubectl("create", "secret", "generic", SECRET, *files)
        laptop = CHART.parent / "values" / "laptop.yaml"
        tls = ["--set=tls.enabled=true", f"--set=tls.secretName={SECRET}"]
        try:
            release.install([f"--values={laptop}", *image_values(image), *tls])
            assert "Succeeded" in release.test()
        finally:
            release.uninstall()


def make_keys(folder: Path, fullname: str) -> None:
    """An authority, and one certificate for all: with the names that the chart asks for."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca",
            folder=folder)  # fmt: skip
    openssl("req", *curve, "-keyout", "tls.key", "-out", "tls.csr", "-subj", "/CN=lengthwise",
            folder=folder)  # fmt: skip
    names = (fullname, f"{fullname}-headless", f"{fullname}-workers")
    (folder / "names").write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in names))
    openssl("x509", "-req", "-in", "tls.csr", "-out", "tls.crt", "-extfile", "names", "-days", "2",
            "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", folder=folder)  # fmt: skip


def openssl(*arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=30)
