"""The recipes as tables in Markdown, made of the recipes themselves.

python -m knn_jax.report.recipes docs/recipes.md configs/*.py results/*.json results/studies/*.json
"""

import inspect
import json
import re
import runpy
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from knn_jax import data, defenses
from knn_jax.data import Data
from knn_jax.display import command
from knn_jax.recipe import Recipe, variants
from knn_jax.report import pipes
from knn_jax.workdir.files import whole

RECIPES = ("recipe", "what it is", "data", "paper", "norms", "to run it")
VARIANTS = ("recipe and variant", "what it is", "decides", "needs", "published")
NORMS = {"l2": "L2", "linf": "Linf"}


def recipes(files: list[Path]) -> str:
    """One line of each recipe: what it is, its data set, its paper, its norms, and what a run costs."""
    return pipes.table(RECIPES, map(_recipe, files))


def every_variant(files: list[Path], published: Mapping[str, Path]) -> str:
    """One line of each recipe and variant: what decides, what it needs besides the data, and its
    published report, of those by `RECIPE[:VARIANT]`."""
    return pipes.table(VARIANTS, (row for file in files for row in _variants(file, published)))


def _recipe(file: Path) -> tuple[str, ...]:
    module = runpy.run_path(str(file))
    recipe: Recipe = module["recipe"]()
    text = inspect.cleandoc(module["__doc__"])
    norms = ", ".join(NORMS[norm] for norm in recipe.evaluate.norms)
    paper = recipe.paper
    cited = (
        f"[{_authors(paper.authors)} {paper.year or ''}".rstrip() + f"]({paper.link})" if paper else ""
    )
    return (
        f"[`{file.stem}`](../{file})",
        text.splitlines()[0],
        _data(recipe.data),
        cited,
        norms,
        _cost(text, file),
    )


def _authors(authors: str) -> str:
    """Their family names, as a citation has them."""
    *others, last = [name.split()[-1] for name in authors.split(", ")]
    if len(others) > 2:
        return f"{others[0]} et al."
    return f"{', '.join(others)} & {last}" if others else last


def _data(made: Data) -> str:
    """The set, and how it is had."""
    if isinstance(made, data.TFDS):
        return f"`{made.name}` of TFDS"
    return f"`{type(made).__name__}`"


def _cost(text: str, file: Path) -> str:
    """The first command that the recipe's text names, with what it says of it."""
    found = re.search(rf"^ *python (\w+\.py) {re.escape(str(file))} *(.*)$", text, re.MULTILINE)
    if found is None:
        return ""
    return f"`{found[1]}`: {found[2]}" if found[2] else f"`{found[1]}`"


def _variants(file: Path, published: Mapping[str, Path]) -> Iterator[tuple[str, ...]]:
    for name, make in variants(runpy.run_path(str(file))).items():
        recipe: Recipe = make()
        place = str(file) if name == "recipe" else f"{file}:{name}"
        report = published.get(place)
        given = {recipe.defense.weights}
        if isinstance(recipe.defense, defenses.RaCNN):
            given.add(recipe.defense.retriever_weights)
        yield (
            f"`{place}`",
            inspect.cleandoc(make.__doc__ or ""),
            recipe.classifier.told(recipe.defense),
            ", ".join(f"`{file}`" for file in sorted(given - {""})),
            f"[{report.stem}](../{report})" if report else "",
        )


def fill(text: str, files: list[Path], published: Mapping[str, Path]) -> str:
    """The text with its tables made anew, between `<!-- recipes -->`, or `<!-- variants -->`, and
    `<!-- end -->`."""
    text = pipes.put(text, "recipes", recipes(files))
    return pipes.put(text, "variants", every_variant(files, published))


def main() -> None:
    """Fills the Markdown files named on the command line from the recipes and reports."""
    files = [Path(name) for name in sys.argv[1:]]
    texts, made, reports = (
        [file for file in files if file.suffix == suffix] for suffix in (".md", ".py", ".json")
    )
    if not (texts and made):
        raise ValueError(
            "give a text and recipes: python -m knn_jax.report.recipes FILE.md configs/*.py"
        )
    published = {json.loads(file.read_text())["recipe"]: file for file in reports}
    for file in texts:
        with whole(file) as scratch:
            scratch.write_text(fill(file.read_text(), made, published))


if __name__ == "__main__":
    command.run(main)
