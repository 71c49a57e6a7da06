"""The methods of the library as tables in Markdown, made of what their values say of themselves.

python -m knn_jax.report.methods docs/methods.md
"""

import dataclasses
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

from knn_jax import attacks, certificates, classifiers, data, defenses, measures, neighbors, nets
from knn_jax.defenses import Perturbable
from knn_jax.display import command
from knn_jax.neighbors.distances import NAMED
from knn_jax.recipe import fit
from knn_jax.report import pipes
from knn_jax.workdir.files import whole

NORMS = {"l2": "L2", "linf": "Linf"}
KNOWS = {
    classifiers.Decides: "decisions",
    classifiers.Scores: "gradients",
    classifiers.Votes: "gradients, rows that vote",
}
COVERS = {
    classifiers.Certifiable: "neighbours or prototypes in one layer by L2",
    classifiers.Predicts: "any classifier",
}


def attacked() -> str:
    """One line of each attack."""
    head = "attack", "what it does", "kind", "norms", "knows", "another's gradients", "source"
    return pipes.table(head, map(_attack, _values(attacks, attacks.Attack)))


def certified() -> str:
    """One line of each certificate."""
    head = "certificate", "what it is", "covers", "norm", "Lipschitz constant", "source"
    return pipes.table(head, map(_certificate, _values(certificates, certificates.Certificate)))


def defended() -> str:
    """One line of each defense."""
    head = "defense", "what is trained", "networks", "adversary", "classifies", "source"
    return pipes.table(head, map(_defense, _values(defenses, defenses.Defense)))


def networks() -> str:
    """One line of each network."""
    head = "network", "what it is", "sizes", "classifies", "Lipschitz bound"
    return pipes.table(head, map(_network, _values(nets, nets.Net)))


def deciding() -> str:
    """One line of each classifier of a recipe."""
    head = "classifier", "what decides"
    made = _values(fit, fit.Classifier)
    return pipes.table(head, ((f"`fit.{kind.__name__}`", _first(kind)) for kind in made))


def metrics() -> str:
    """One line of each metric."""
    head = "metric", "distance", "names", "search"
    kinds = (part for part in vars(neighbors).values() if inspect.isclass(part))
    made = (kind for kind in kinds if dataclasses.is_dataclass(kind) and hasattr(kind, "distance"))
    return pipes.table(head, map(_metric, sorted(made, key=lambda kind: kind.__name__)))


def datasets() -> str:
    """One line of each data set."""
    made = _values(data, data.Data)
    return pipes.table(
        ("data", "what it is"), ((f"`data.{kind.__name__}`", _first(kind)) for kind in made)
    )


def measured() -> str:
    """One line of each measure."""
    head, made = ("measure", "what it tells", "source"), _values(measures, measures.Measure)
    return pipes.table(head, ((f"`{kind.__name__}`", _first(kind), kind.cites) for kind in made))


TABLES: dict[str, Callable[[], str]] = {
    "attacks": attacked,
    "certificates": certified,
    "defenses": defended,
    "networks": networks,
    "classifiers": deciding,
    "metrics": metrics,
    "data": datasets,
    "measures": measured,
}


def _values(library: types.ModuleType, base: type) -> Iterator:
    """The values of that kind in a package, in the order of their names."""
    kinds = [
        kind
        for kind in vars(library).values()
        if inspect.isclass(kind)
        and issubclass(kind, base)
        and dataclasses.is_dataclass(kind)
        and not inspect.isabstract(kind)
    ]
    return iter(sorted(kinds, key=lambda kind: kind.__name__.lower()))


def _first(kind: type) -> str:
    """The first paragraph of its text."""
    return (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")


def _code(kind: type) -> str:
    return f"`{kind.__name__}`"


def _attack(kind) -> tuple[str, ...]:
    ball = issubclass(kind, attacks.BallAttack)
    norms = ", ".join(NORMS[norm] for norm in kind.norms)
    follows = "yes" if kind.follows is not None else ""
    knows = KNOWS[classifiers.Votes if kind.follows is classifiers.Votes else kind.needs]
    what = "ball" if ball else "smallest"
    return _code(kind), _first(kind), what, norms, knows, follows, kind.cites


def _certificate(kind) -> tuple[str, ...]:
    needed = "needed" if kind.of_features and not kind.of_pixels else ""
    covers = "neighbours on the pixels by L2" if kind.of_pixels else COVERS[kind.needs]
    return _code(kind), _first(kind), covers, NORMS[kind.norm], needed, kind.cites


def _defense(kind) -> tuple[str, ...]:
    has = {field.name for field in dataclasses.fields(kind)}
    adversary = "optional" if issubclass(kind, Perturbable) else "needed" if "adversary" in has else ""
    return (
        _code(kind),
        _first(kind),
        _trains(kind),
        adversary,
        "yes" if kind.classifies else "",
        kind.cites,
    )


def _trains(kind) -> str:
    """The networks that a defense does not refuse, of one size each."""
    sizes = {type(net): net for net in (nets.Pixels(), *(make() for _, make in _sizes()))}
    taken = []
    for net in sizes.values():
        one = object.__new__(kind)
        object.__setattr__(one, "net", net)
        try:
            one.check_net()
        except ValueError:
            continue
        taken.append(net)
    if len(taken) == len(sizes):
        return "any"
    if taken == [net for net in sizes.values() if net.classifies]:
        return "any that classifies"
    return ", ".join(sorted(_code(type(net)) for net in taken))


def _sizes() -> Iterator[tuple[str, Callable[[], nets.Net]]]:
    """The functions that give a network of one size, by name."""
    for name, part in vars(nets).items():
        made = part.__annotations__.get("return") if inspect.isfunction(part) else None
        if inspect.isclass(made) and issubclass(made, nets.Net):
            yield name, part


def _network(kind) -> tuple[str, ...]:
    made = [f"`{name}`" for name, make in _sizes() if make.__annotations__["return"] is kind]
    bound, classifies = ("yes" if given else "" for given in (kind.lipschitz, kind.classifies))
    return _code(kind), _first(kind), ", ".join(sorted(made)), classifies, bound


def _metric(kind) -> tuple[str, ...]:
    names = [f'`"{name}"`' for name, metric in NAMED.items() if type(metric) is kind]
    bounded = hasattr(kind, neighbors.BoundedMetric.floor.__name__)
    way = "a matmul, measured and proven" if bounded else "every row is measured"
    return f"`neighbors.{kind.__name__}`", _first(kind), ", ".join(names), way


def fill(text: str) -> str:
    """The text with each table that it has a place for made anew, as between `<!-- attacks -->` and
    `<!-- end -->`; ValueError for a text that has no place."""
    found = [name for name in TABLES if pipes.place(text, name)]
    if not found:
        raise ValueError(f"no <!-- {' -->, <!-- '.join(TABLES)} --> before an <!-- end -->: add them")
    for name in found:
        text = pipes.put(text, name, TABLES[name]())
    return text


def main() -> None:
    """Fills the Markdown files named on the command line."""
    files = [Path(name) for name in sys.argv[1:]]
    if not files:
        raise ValueError("give a text: python -m knn_jax.report.methods docs/methods.md")
    for file in files:
        with whole(file) as scratch:
            scratch.write_text(fill(file.read_text()))


if __name__ == "__main__":
    command.run(main)
