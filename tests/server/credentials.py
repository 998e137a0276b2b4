"""Keys and certificates for the tests."""

import pathlib
import subprocess

from serving import BINARY


def keys(folder, *flags):
    return subprocess.run([BINARY, "keys", "--file", str(pathlib.Path(folder) / "keys.json"), *flags],
                          capture_output=True, text=True)


def make_key(folder, name, *flags):
    done = keys(folder, "--add", name, *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def openssl(folder, *command):
    subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)


def make_certificates(folder):
    """ca.pem signs server.pem and client.pem; other-ca.pem signs other.pem."""
    for ca, names in (("ca", ("server", "client")), ("other-ca", ("other",))):
        openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                f"/CN={ca}", "-keyout", f"{ca}.key", "-out", f"{ca}.pem")
        for name in names:
            openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
                    "-keyout", f"{name}.key", "-out", f"{name}.csr")
            (pathlib.Path(folder) / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
            openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey",
                    f"{ca}.key", "-CAcreateserial", "-days", "2", "-extfile", "names",
                    "-out", f"{name}.pem")
