"""Makes the messages and stubs of proto/ when the package is built: they are not committed."""

import importlib.util
import pathlib
import shutil
import subprocess
import sys

from setuptools import setup
from setuptools.command.build_py import build_py

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"
FILES = ["qianyi/v1/images.proto", "qianyi/v1/inference.proto"]


def compiler():
    """protoc of grpcio-tools, or of the system with the plugin for Python."""
    if importlib.util.find_spec("grpc_tools"):
        return [sys.executable, "-m", "grpc_tools.protoc"]
    protoc, plugin = shutil.which("protoc"), shutil.which("grpc_python_plugin")
    if protoc and plugin:
        return [protoc, f"--plugin=protoc-gen-grpc_python={plugin}"]
    raise SystemExit("qianyi: needs protoc and grpc_python_plugin (Debian's protobuf-compiler and "
                     "protobuf-compiler-grpc), or the Python package grpcio-tools")


class BuildWithMessages(build_py):

    def run(self):
        super().run()
        out = pathlib.Path(self.build_lib)
        subprocess.run([*compiler(), f"-I{PROTO}", f"--python_out={out}", f"--pyi_out={out}",
                        f"--grpc_python_out={out}", *FILES], check=True)
        (out / "qianyi/v1/__init__.py").write_text('"""The messages of the gRPC API."""\n')


setup(cmdclass={"build_py": BuildWithMessages})
