"""The command line of the three scripts: a recipe, its knobs, and a workdir."""

import dataclasses
import logging
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from knn_jax import compiled
from knn_jax.config import Config

KEPT = f"Keep compiled programs in {compiled.folder()}, for the next run; delete it to free the space."


@dataclasses.dataclass(frozen=True)
class _Run(Config):
    workdir: str = ""
    """Folder of checkpoints and results; the same one resumes."""
    keep_programs: Annotated[bool, tyro.conf.arg(help=KEPT)] = True


def main(job: Callable[[Config, str], None], about: str) -> None:
    """Runs `job` on the recipe and the workdir of the command line."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax and TFDS tell their inner life

    def start() -> None:
        recipe, workdir, keeps = parse(sys.argv, about)
        if keeps:
            compiled.keep()
        job(recipe, workdir)

    run(start)


def run(job: Callable[[], object]) -> None:
    """Runs `job`; what the user can mend is one line on standard error and exit code 2."""
    try:
        job()
    except ValueError as error:
        if os.environ.get("KNN_JAX_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def parse(argv: list[str], about: str) -> tuple[Config, str, bool]:
    """`SCRIPT RECIPE.py [--workdir DIR] [--section.knob VALUE ...]` as recipe and workdir, and whether
    compiled programs are kept."""
    script, *arguments = argv
    if not arguments or arguments[0].startswith("-"):
        usage = f"usage: {Path(script).name} RECIPE.py [--workdir DIR] [--section.knob VALUE ...]"
        recipes = " ".join(sorted(map(str, Path(script).parent.glob("configs/*.py"))))
        print(f"{about}\n\n{usage}\nrecipes: {recipes}\nknobs: {Path(script).name} RECIPE.py --help")
        sys.exit(0 if arguments[:1] in (["-h"], ["--help"]) else 2)
    file = arguments[0]
    if not Path(file).is_file():
        raise ValueError(f"there is no recipe {file}")
    module = runpy.run_path(file)
    recipe = module["get_config"]() if "get_config" in module else None
    if not isinstance(recipe, Config):
        raise ValueError(f"{file} is no recipe: it needs a get_config() that returns a Config")
    knobs = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(Config)}
    given = tyro.cli(
        _Run,
        default=_Run(**knobs, workdir=f"runs/{recipe.name}"),
        args=arguments[1:],
        prog=f"{Path(script).name} {file}",
        description=f"{about}\n\n{module.get('__doc__') or ''}",
    )
    asked = Config(**{name: getattr(given, name) for name in knobs})
    copy = asked.data.name == recipe.data.name or asked.data.name.endswith(".npz")
    weights = bool(asked.net.weights)
    if not copy or _told(asked, weights) != _told(recipe, weights):
        asked = dataclasses.replace(asked, reported={})
    return asked, given.workdir, given.keep_programs


def _told(recipe: Config, given: bool) -> tuple:
    """What a paper's figures are of, beside the set and the layers: a network trained so, unless its
    weights are given, a classifier on so many images, and an attack."""
    classifier, ball = recipe.classifier, recipe.ball
    net = dataclasses.replace(recipe.net, weights="")
    images = dataclasses.replace(recipe.data, name="", data_dir="", split_seed=0)
    optim = None if given else dataclasses.replace(recipe.optim, seed=0)
    decides = classifier.name, classifier.k, classifier.metric, classifier.top, classifier.bank_rows
    attack = (ball.layers, ball.k, ball.others, ball.metric, ball.targeted, ball.drawn)
    return recipe.name, images, net, recipe.defense, optim, decides, attack
