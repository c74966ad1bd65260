"""Builds the C library into the package.

`pip wheel .` compiles it with cargo (`cargo build --release -p unicon-c`), or takes the file that UNICON_BUILD_LIBRARY names, strips it and
makes a wheel for every Python 3 (ctypes needs no ABI of CPython's) and for the oldest glibc that the library runs on. In a checkout the
Rust sources are those of the folder above; an sdist has them in `rust/`.
"""

import atexit
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist
from setuptools.errors import SetupError

HERE = pathlib.Path(__file__).resolve().parent
RUST = HERE / "rust" if (HERE / "rust").is_dir() else HERE.parent
# What the C library is compiled from.
SOURCES = ["Cargo.toml", "Cargo.lock", "build.rs", "LICENSE-APACHE", "LICENSE-MIT", "capi", "cuda", "data", "include", "src"]
DIGITS = ["left.npy", "right.npy", "labels.npy", "ATTRIBUTION.md"]
LIBRARY = "libunicon.dylib" if sys.platform == "darwin" else "libunicon.so"


def run(*command):
    try:
        return subprocess.run(command, cwd=RUST, check=True, stdout=subprocess.PIPE, text=True).stdout
    except FileNotFoundError:
        get = "install Rust from https://rustup.rs, or a wheel" if command[0] == "cargo" else "install binutils"
        raise SetupError(f"unicon-align: {command[0]} not found: {get}") from None
    except subprocess.CalledProcessError as e:
        raise SetupError(f"unicon-align: {' '.join(command)} failed with status {e.returncode}") from None


def build_library():
    """The C library, compiled unless it is given."""
    given = os.environ.get("UNICON_BUILD_LIBRARY")
    if given:
        return pathlib.Path(given)
    run("cargo", "build", "--release", "--locked", "-p", "unicon-c")
    target = re.search(r'"target_directory":"([^"]+)"', run("cargo", "metadata", "--format-version", "1", "--no-deps"))
    return pathlib.Path(target[1]) / "release" / LIBRARY


class BuildPackage(build_py):
    """The package with the library and the digits; an editable install finds the library by UNICON_LIBRARY."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        package = pathlib.Path(self.build_lib) / "unicon_align"
        (package / "digits").mkdir(parents=True, exist_ok=True)
        for name in DIGITS:
            shutil.copy(RUST / "data/digits_halves" / name, package / "digits" / name)
        run("strip", "-x" if sys.platform == "darwin" else "--strip-unneeded", "-o", str(package / LIBRARY), str(build_library()))


class Wheel(bdist_wheel):
    """py3-none-PLATFORM."""

    def get_tag(self):
        platform = sysconfig.get_platform()
        library = next(pathlib.Path(self.bdist_dir).rglob(LIBRARY), None)
        # An editable install has none.
        if platform.startswith("linux") and library:
            # The versions of glibc's symbols that it asks for, by name in its string table.
            needed = max(int(v) for v in re.findall(rb"\0GLIBC_2\.(\d+)(?=[\0.])", library.read_bytes()))
            platform = f"manylinux_2_{max(needed, 17)}_{platform.split('-', 1)[1]}"
        return "py3", "none", re.sub(r"[-.]", "_", platform)


class Binary(Distribution):
    """A package with a compiled library, which is installed where such packages are."""

    def has_ext_modules(self):
        return True


def without_tests(manifest):
    """Cargo.toml of the library alone: no other members, tests and benchmarks, whose files are not there."""
    manifest = re.sub(r"(?m)^members = .*$", 'members = ["capi"]', manifest)
    return re.sub(r"(?m)^\[\[(?:bin|bench|test)\]\]\n(?:[^\[\n].*\n|\n)*", "", manifest)


class Sources(sdist):
    """The package and what the library is compiled from."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        base = pathlib.Path(base_dir)
        for name in ("LICENSE-APACHE", "LICENSE-MIT"):
            (base / name).unlink(missing_ok=True)
            shutil.copy(HERE / name, base / name)
        for name in SOURCES:
            source, to = RUST / name, base / "rust" / name
            to.parent.mkdir(exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__", "*.fatbin"))
            else:
                shutil.copy(source, to)
        manifest = base / "rust/Cargo.toml"
        manifest.write_text(without_tests(manifest.read_text()))


# What is built goes beside no sources, and nothing of an earlier build comes into a wheel.
scratch = tempfile.mkdtemp(prefix="unicon-align-")
atexit.register(shutil.rmtree, scratch, ignore_errors=True)
version = re.search(r'(?m)^version = "(.+)"', (RUST / "Cargo.toml").read_text())[1]
setup(
    version=version,
    packages=["unicon_align", "unicon_align.torch"],
    package_data={"unicon_align": ["py.typed"]},
    distclass=Binary,
    cmdclass={"build_py": BuildPackage, "bdist_wheel": Wheel, "sdist": Sources},
    options={"build": {"build_base": scratch}, "egg_info": {"egg_base": scratch}},
)
