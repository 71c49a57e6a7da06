"""What is drawn in the curves of one run."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from outcomes import CLEAN, LABELS, NORM, RADIUS, attacked, certified

from knn_jax.report.figures import curves


@pytest.fixture
def axis(monkeypatch):
    """Draws attacks and certificates, and gives the first axis."""
    drawn: list[Figure] = []

    def png(figure):
        drawn.append(figure)
        return b""

    def draw(attacks, certificates, **norms):
        proven = [{"name": name, "norm": norms.get(name, "l2")} for name in certificates]
        report = {"name": "$a$", "decider": "1-NN on pixels", "attacks": [], "certificates": proven}
        curves.curve(report, attacks, certificates, CLEAN == LABELS)
        return drawn[-1].axes[0]

    monkeypatch.setattr(curves, "png", png)
    return draw


@pytest.mark.parametrize("count", [1, 4, 14])
def test_every_certificate_is_drawn(axis, count):
    given = {f"c{i}": certified((1 - i / 20) * RADIUS) for i in range(count)}
    lines = axis({}, given).get_lines()
    assert [line.get_label() for line in lines] == [f"certified: {name}" for name in given]
    styles = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(styles) == min(count, 12)


def test_every_attack_is_drawn(axis):
    given = {(f"a{i}", "l2"): attacked(NORM + np.float32(i)) for i in range(40)}
    assert len(axis(given, {"margin": certified()}).get_lines()) == 41


def test_a_certificate_is_drawn_in_its_norm(axis):
    both = {"one": certified(), "two": certified()}
    first = axis({}, both, two="linf")
    assert [line.get_label() for line in first.get_lines()] == ["certified: one"]
    [_, second] = first.figure.axes
    assert [line.get_label() for line in second.get_lines()] == ["certified: two"]
    assert second.get_xlabel().startswith("linf")
