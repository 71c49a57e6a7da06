"""The command line of the scripts: RECIPE.py[:VARIANT], the flags of its own values, a workdir."""

import dataclasses
import difflib
import inspect
import logging
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from knn_jax import attacks, certificates, data, mesh
from knn_jax.cli import several
from knn_jax.cli.knobs import Flag, Group, changed, flags, listed, record
from knn_jax.cli.page import page
from knn_jax.display.command import run
from knn_jax.recipe import Recipe, read, same_system
from knn_jax.workdir import programs

WORKDIR = "Folder of results, or gs://PLACE; the same one resumes"
PATH = "Read an .npz or a folder of images by class in place of the recipe's data"
ATTACK = "Attacks to run, the recipe's or any of the library, by name"
CERTIFICATE = "Certificates to compute, the recipe's or any of the library, by name"
KEEP = "Keep compiled programs for the next run (in ~/.cache or XDG_CACHE_HOME)"
T = TypeVar("T")


def main(job: Callable[[Recipe, str], None], about: str) -> None:
    """Runs `job` on the recipe and the workdir of the command line, in all of its processes."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax and TFDS tell their inner life

    def start() -> None:
        several.join(sys.argv)
        with several.refusing_as_one():
            recipe, workdir, keeps = mesh.together(lambda: parse(sys.argv, about))
            if keeps:
                programs.keep()
            job(recipe, workdir)

    run(start)


def parse(argv: list[str], about: str) -> tuple[Recipe, str, bool]:
    """`SCRIPT RECIPE.py[:VARIANT] [--flag VALUE ...]` as recipe and workdir, and whether compiled
    programs are kept. Raises ValueError for what a value refuses."""
    script, *arguments = argv
    name = Path(script).name
    if not arguments or arguments[0].startswith("-"):
        usage = f"usage: {name} RECIPE.py[:VARIANT] [--workdir DIR] [--part.knob VALUE ...]"
        recipes = " ".join(sorted(map(str, Path(script).parent.glob("configs/*.py"))))
        print(f"{about}\n\n{usage}\nrecipes: {recipes}\nflags: {name} RECIPE.py --help")
        sys.exit(0 if arguments[:1] in (["-h"], ["--help"]) else 2)
    place, *arguments = arguments
    original, text = read(place)
    arguments = [word for argument in arguments for word in _words(argument)]
    recipe = _chosen(original, arguments)
    known: list[Flag | Group] = [
        Flag("workdir", str, f"runs/{recipe.name}", WORKDIR),
        Flag("data_path", str, "", PATH),
        Flag("attack", tuple[str, ...], tuple(recipe.attacks), ATTACK),
        Flag("certificate", tuple[str, ...], tuple(recipe.certificates), CERTIFICATE),
        Flag("keep_programs", bool, True, KEEP),
        *(Flag(name.replace("-", "_"), kind | None, None, text) for name, kind, text in several.FLAGS),
        *flags(recipe),
    ]
    if set(arguments) & {"-h", "--help"}:
        print(page(f"{name} {place}", about, text, known))
        sys.exit(0)
    _check_left_out(arguments, original, recipe)
    _check_names(arguments, known, f"{name} {place}")
    made = record("Flags", known)
    given = tyro.cli(made, default=made(), args=arguments, prog=f"{name} {place}", add_help=False)
    asked = changed(recipe, given)
    if given.data_path:
        asked = asked.but(data=data.at_path(given.data_path, asked.data))
    if asked.paper and not same_system(asked, original):
        asked = asked.but(paper=asked.paper.reports({}))
    return asked, given.workdir, given.keep_programs


def _check_left_out(arguments: list[str], own: Recipe, chosen: Recipe) -> None:
    """Raises ValueError for a flag of one of the recipe's methods that the command line left out."""
    for kind in ("attack", "certificate"):
        methods, kept = (getattr(recipe, f"{kind}s") for recipe in (own, chosen))
        for name in methods.keys() - kept.keys():
            flag = f"--{kind}s.{name}.".replace("_", "-")
            for word in arguments:
                if word.startswith(flag):
                    raise ValueError(f"{word}: --{kind} left {name} out: name it there as well")


def _check_names(arguments: list[str], known: Sequence[Flag | Group], what: str) -> None:
    """Raises ValueError for a flag that there is not, with the nearest one that there is."""
    every = [f"--{name}" for name, _ in listed(known)]
    switches = [f"--{name}" for name, flag in listed(known) if isinstance(flag.now, bool)]
    off = [re.sub(r"([^.-]+[^.]*)$", r"no-\1", switch) for switch in switches]
    for word in arguments:
        if word.startswith("--") and word not in (*every, *off):
            near = difflib.get_close_matches(word, every, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"{word} is no flag of {what}: {hint}--help tells those that there are")


def _words(argument: str) -> list[str]:
    """`--flag=value` as two words; any other as it is."""
    return argument.split("=", 1) if argument.startswith("--") else [argument]


def _chosen(recipe: Recipe, arguments: list[str]) -> Recipe:
    """The recipe with the attacks and certificates that the command line names."""
    attack, certificate = (_values_of(arguments, flag) for flag in ("--attack", "--certificate"))
    if attack is not None:
        known = known_values(attacks, attacks.Attack)
        recipe = recipe.but(attacks=_named("attack", attack, recipe.attacks, known))
    if certificate is not None:
        known = known_values(certificates, certificates.Certificate)
        recipe = recipe.but(certificates=_named("certificate", certificate, recipe.certificates, known))
    return recipe


def _values_of(arguments: list[str], flag: str) -> list[str] | None:
    """What follows a flag where it stands last, up to the next flag; None without it."""
    if flag not in arguments:
        return None
    rest = arguments[len(arguments) - arguments[::-1].index(flag) :]
    ends = [number for number, word in enumerate(rest) if word.startswith("-")]
    return rest[: ends[0] if ends else None]


def known_values(library: types.ModuleType, base: type[T]) -> dict[str, type[T]]:
    """The values of a kind that a package exports, by the names that the command line has for them."""
    parts = vars(library)
    functions = {name.replace("_", ""): name for name in parts if inspect.isfunction(parts[name])}

    def name(kind: type) -> str:
        """As its function has it: carlini_wagner, deepfool."""
        own = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()
        return functions.get(kind.__name__.lower(), own)

    kinds = [kind for kind in parts.values() if inspect.isclass(kind) and issubclass(kind, base)]
    return {name(kind): kind for kind in kinds if dataclasses.is_dataclass(kind)}


def _named(
    kind: str, names: list[str], own: Mapping[str, T], known: Mapping[str, type[T]]
) -> dict[str, T]:
    """Those values by name: the recipe's own, else the library's as they are by default."""
    found = {}
    for name in names:
        if name in own:
            found[name] = own[name]
        elif name.replace("-", "_") in known:
            found[name.replace("-", "_")] = known[name.replace("-", "_")]()
        else:
            every = sorted({*own, *known})
            near = difflib.get_close_matches(name, every, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(
                f"--{kind} {name}: there is no such {kind}{hint}; there are {', '.join(every)}"
            )
    return found
