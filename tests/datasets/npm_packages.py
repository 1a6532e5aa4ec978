"""Makes packages as npm packs them, and an npm client that hands them out."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from dgbench.datasets._npm import Package


def write_package(folder: Path, spec: str, files: Mapping[str, bytes]) -> Package:
    """A tarball in `folder`, and the package that it is of."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    package = Package(spec, base64.b64encode(hashlib.sha512(stream.getvalue()).digest()).decode())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / package.file_name).write_bytes(stream.getvalue())
    return package


def install_npm(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Make a shell script the only npm there is; it is called `npm pack --pack-destination DIR X Y SPEC ...`."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
