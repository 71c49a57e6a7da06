"""Programs kept on disk: found again by another process, and nothing is set by the library itself."""

import os
import subprocess
import sys

import pytest

COMPILE = """
import jax, jax.numpy as jnp, logging
{0}
jax.jit(lambda x: jnp.sort(x @ x.T, 1)[:, :3])(jnp.ones((40, 7))).block_until_ready()
print(jax.config.jax_compilation_cache_dir)
"""


def compiled(code, **environment):
    own = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE.format(code)],
        env=own | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


KEEP = "from knn_jax.workdir import programs; programs.keep(brief=0.0)"


@pytest.mark.parametrize(("code", "kept"), [(KEEP, True), ("import knn_jax.attacks", False)])
def test_programs_are_kept_where_it_is_asked_for(tmp_path, code, kept):
    told = compiled(code, XDG_CACHE_HOME=str(tmp_path))
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert bool(files) == kept
    assert (told != "None") == kept
    if kept:
        times = {file: file.stat().st_mtime_ns for file in files if file.name.endswith("-cache")}
        compiled(code, XDG_CACHE_HOME=str(tmp_path))
        assert times == {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*-cache")}


def test_a_folder_that_the_user_has_told_stays(tmp_path):
    told = compiled(KEEP, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
    assert told == str(tmp_path / "own")
