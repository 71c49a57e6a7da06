"""Compiled programs that are kept on disk, so that the next process need not compile them again."""

import hashlib
import os
import platform
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

BRIEF = 0.1  # seconds of compiling below which a program is not worth a file


def folder() -> Path:
    """Where the user keeps them: of this processor, since code for another may not run here."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "knn_jax" / "programs" / _processor()


def keep(brief: float = BRIEF) -> None:
    """Keeps what JAX compiles from now on in `folder()`, unless the user has told JAX another one."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(folder()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", brief)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        compilation_cache.reset_cache()  # JAX may have looked already, and found none


def _processor() -> str:
    """A name for the instructions that it knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        known = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        known = platform.processor()
    return f"{platform.machine()}-{hashlib.blake2b(known.encode(), digest_size=4).hexdigest()}"
