"""What kind of attack each name is, and the runs that a recipe's names, norms and sources come to."""

from typing import NamedTuple

from knn_jax import balls, config


class Kind(NamedTuple):
    """What an attack has and needs."""

    norms: tuple[balls.Norm, ...] = ("l2", "linf")
    """In which it is run."""
    sourced: bool = False
    """Whether it can follow the gradients of another than the classifier."""
    ball: bool = False
    """Whether it is run in the ball of each radius, not for the least perturbation."""
    voting: bool = False
    """Whether it needs rows that vote."""
    learns: bool = False
    """Whether it learns from how rows fare among the others, which of prototypes says nothing."""
    paper: bool = True
    """Whether a paper's evaluation consists of it; the others are our strongest."""


KINDS = {
    "minimum_norm": Kind(paper=False),
    "guided": Kind(norms=("l2",), voting=True),
    "hinged": Kind(norms=("l2",), voting=True),
    "boundary": Kind(norms=("l2",)),
    "fgsm": Kind(sourced=True),
    "ifgsm": Kind(sourced=True),
    "deepfool": Kind(sourced=True),
    "lbfgs": Kind(norms=("l2",), sourced=True),
    "pgd": Kind(sourced=True, ball=True, paper=False),
    "pgd_loss": Kind(sourced=True, ball=True),
    "kfgsm": Kind(ball=True, voting=True),
    "ask": Kind(ball=True, voting=True),
    "dknn": Kind(ball=True, voting=True, learns=True),
    "adv_knn": Kind(ball=True, voting=True, learns=True),
}


class Run(NamedTuple):
    """One attack, as it is asked for."""

    name: str
    """Of the attack."""
    norm: balls.Norm
    """In which it is measured."""
    source: str = "model"
    """Whose gradients it follows."""

    @property
    def label(self) -> str:
        """Name and source, where that is not the classifier itself."""
        return self.name if self.source == "model" else f"{self.name} on {self.source}"


def runs(knobs: config.Attack) -> list[Run]:
    """Each attack with each norm and source that it has."""
    return [
        Run(name, norm, source)
        for name in knobs.names
        for norm in knobs.norms
        if norm in KINDS[name].norms
        for source in (knobs.sources if KINDS[name].sourced else ("model",))
    ]
