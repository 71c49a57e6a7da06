"""The network of Zhao & Cho 2018 that classifies a point among the features of retrieved neighbours."""

import abc
import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import PyTree

from knn_jax import values
from knn_jax.nets import all_conv
from knn_jax.nets.linear import linear
from knn_jax.nets.net import Net
from knn_jax.nets.resnet import ResNet, digits_resnet, imagenet_resnet18


class RetrievalAugmented(Net):
    """A network that answers among retrieved neighbours."""

    batch_norm = True
    classifies = False  # of the image alone it is not trained to
    lipschitz = False

    frozen: ClassVar[bool]
    """Whether its features are those of the network that it retrieves by, and stay as they are."""

    @abc.abstractmethod
    def build(self, classes: int) -> "RaCNNModule":
        """The module."""


@values.value
class RaCNN(RetrievalAugmented):
    """An all-convolutional network that answers among retrieved neighbours, trained as a whole."""

    layers: all_conv.Layers
    """Channels, window and stride of each convolution of the features phi."""
    dim: int
    """Numbers in the features phi."""
    hidden: tuple[int, ...]
    """Numbers in each hidden layer of the classifier g."""

    frozen = False

    def build(self, classes: int) -> "RaCNNModule":
        """The module."""
        body, head = Embedding(self.layers, self.dim), Head(self.hidden, classes)
        return RaCNNModule(body, head, self.dim, classes)


@values.value
class FrozenRaCNN(RetrievalAugmented):
    """Attention and a last layer on the features of a residual network, which stay as they are."""

    body: ResNet
    """The residual network whose pooled features are phi, and by which neighbours are retrieved."""

    frozen = True

    def build(self, classes: int) -> "RaCNNModule":
        """The module."""
        dim = self.body.stages[-1][1]
        body, head = Pooled(self.body.build(classes)), Head((), classes)
        return RaCNNModule(body, head, dim, classes, frozen=True)


def cifar10_racnn() -> RaCNN:
    """The network of Zhao & Cho 2018 for CIFAR-10 and SVHN (appendix A): 256 features."""
    return RaCNN(all_conv.CIFAR10, 256, (64,))


def small_racnn() -> RaCNN:
    """A small one for images of 32x32."""
    return RaCNN(all_conv.SMALL, 64, (32,))


def digits_racnn() -> RaCNN:
    """The smallest, for the digits."""
    return RaCNN(all_conv.DIGITS, 16, (16,))


def imagenet_racnn() -> FrozenRaCNN:
    """That of Zhao & Cho 2018 for ImageNet (section 5.4), on a ResNet-18."""
    return FrozenRaCNN(imagenet_resnet18())


def digits_frozen_racnn() -> FrozenRaCNN:
    """The same on the smallest residual network, for the digits."""
    return FrozenRaCNN(digits_resnet())


def answering(module: "RaCNNModule", variables: PyTree) -> tuple[Partial, Partial]:
    """The network's features phi and its answer, as `classifiers.retrieval` takes them."""
    return Partial(_Embedded(module), variables), Partial(_Answered(module), variables)


@dataclasses.dataclass(frozen=True)
class _Embedded:
    """The features among which is answered as a function, equal for equal modules."""

    module: "RaCNNModule"

    def __call__(self, variables, x):
        return self.module.apply(variables, x, method="embed")


@dataclasses.dataclass(frozen=True)
class _Answered:
    """The answer among neighbours as a function, equal for equal modules."""

    module: "RaCNNModule"

    def __call__(self, variables, query, rows, nearness):
        return self.module.apply(variables, query, rows, nearness, method="answer")


class Embedding(nn.Module):
    """phi: convolutions and a linear layer, `(x, train) -> (batch, dim)`."""

    layers: all_conv.Layers
    dim: int

    @nn.compact
    def __call__(self, x, train=False):
        last = all_conv.stack(self.layers, x, train)[f"conv{len(self.layers)}"]
        return linear(last, self.dim, "embedding")


class Pooled(nn.Module):
    """phi of a residual network: what it has before its last layer, `(x, train) -> (batch, dim)`."""

    net: nn.Module

    def __call__(self, x, train=False):
        return self.net(x, train)[1]["pool"]


class Head(nn.Module):
    """g: `(features, train) -> (batch, class)`."""

    hidden: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, x, train=False):
        return all_conv.perceptron(x, self.hidden, self.classes, train)


class RaCNNModule(nn.Module):
    """Features phi(x), projected by attention into the convex hull of neighbours', then classified.

    Called as any network, `(x, train) -> (logits, layers)`, it has the image as its only neighbour; its
    one layer is embedding. `answer` classifies among neighbours. (Zhao & Cho 2018, sections 2.2 and 7;
    U starts at zero, which the paper leaves open: all neighbours then count the same.)

    The body phi gives `dim` features, and where `frozen` it is not trained: see `adopt`.
    """

    body: nn.Module
    head: nn.Module
    dim: int
    classes: int
    frozen: bool = False

    def setup(self):
        self.attention = nn.Dense(self.dim, use_bias=False, kernel_init=nn.initializers.zeros)

    def __call__(self, x, train=False):
        found = self.embed(x, train)
        return self.answer(found, found[:, None], train=train), {"embedding": found}

    def embed(self, x, train=False):
        """phi, (batch, dim)."""
        if self.frozen:
            return jax.lax.stop_gradient(self.body(x)) if train is not False else self.body(x)
        return self.body(x, train)

    def answer(self, query, rows, nearness=None, train=False):
        """Logits of queries (batch, dim) among neighbours (batch, k, dim)."""
        return self.classify(self.attend(query, rows, nearness), rows, train)

    def attend(self, query, rows, nearness=None):
        """Coefficients alpha, (batch, k): softmax of phi(x_k)^T U phi(x) + nearness, (batch, k)."""
        scores = jnp.einsum("bkd,bd->bk", rows, self.attention(query))
        return jax.nn.softmax(scores if nearness is None else scores + nearness)

    def classify(self, alpha, rows, train=False):
        """Logits of the point with coefficients alpha, (batch, k), among neighbours (batch, k, dim)."""
        return self.head(jnp.einsum("bk,bkd->bd", alpha, rows), train)

    def adopt(self, variables: PyTree, others: PyTree) -> PyTree:
        """The variables with those of a residual network in the place of phi's, and its last layer's in
        that of g's, as the paper has it for ImageNet (section 5.4)."""
        found = {kind: {**held, "body": {"net": others[kind]}} for kind, held in variables.items()}
        head = {"fc": others["params"]["fc"]}
        return {**found, "params": {**found["params"], "head": head}}

    def lipschitz(self, variables: PyTree, layer: str) -> float:
        """inf: attention over features of any length has no bound."""
        return float("inf")
