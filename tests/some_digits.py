"""Digits to train on: the one place where tests of networks, defenses and training read data."""

from knn_jax import data


def digits(train_images=0):
    """The embedded digits, split as recipes do."""
    return data.Digits(train_images=train_images).load()


def few(count):
    """The same with the first so many images of their training split."""
    found = digits()
    return found._replace(train=data.Split(*(part[:count] for part in found.train)))
