"""What is no number, no network and no recipe is refused in one line when the value is made."""

import pytest

from knn_jax import attacks, defenses, nets
from knn_jax.recipe import fit


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: attacks.PGD(steps=2.5), "steps=2.5: give a whole number"),
        (lambda: attacks.PGD(steps=True), "steps=True: give a whole number"),
        (lambda: attacks.PGD(steps="a"), "steps='a': give a whole number"),
        (lambda: attacks.PGD(temperature="a"), "temperature='a': give a number"),
        (lambda: attacks.PGD(temperature=float("inf")), "temperature=inf: it must be finite"),
        (lambda: nets.VGG(((1, 0),), (4,)), r"blocks=\(\(1, 0\),\): it must be"),
        (lambda: nets.VGG(((1, 4),), (0,)), r"hidden=\(0,\): it must be"),
        (lambda: nets.ConvNet(((0, 3, 1, 1),)), "channels=0: it must be"),
        (lambda: nets.ConvNet(((4, 3, 0, 1),)), "stride=0: it must be"),
        (lambda: nets.ConvNet(((4, 3, 1, -1),)), "padding=-1: it must be"),
        (lambda: fit.KNN(k=1.5), "k=1.5: give a whole number"),
        (lambda: fit.KNN(layers="relu3"), "layers='relu3': give names"),
        (lambda: fit.KNN(layers=("relu3", "relu3")), "each layer votes once"),
        (lambda: fit.KNN(metric="zz"), "metric='zz'"),
        (lambda: defenses.CrossEntropy(nets.digits_convnet), "give a network"),
    ],
)
def test_a_value_refuses_what_means_nothing(make, told):
    with pytest.raises(ValueError, match=told):
        make()
