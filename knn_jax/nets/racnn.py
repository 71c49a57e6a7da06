"""Paper 2's network that classifies a point among the features of retrieved neighbours."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from knn_jax.nets import resnet, strided
from knn_jax.nets.trunk import linear

# (features, hidden layers of the classifier) beside the convolutions of `strided`.
SIZES = {"cifar10": (256, (64,)), "small": (64, (32,)), "digits": (16, (16,))}


def convolutional(size: str, classes: int) -> "Racnn":
    """The paper's for CIFAR-10 and SVHN, trained as a whole."""
    dim, hidden = SIZES[size]
    return Racnn(Embedding(strided.SIZES[size], dim), Head(hidden, classes), dim, classes)


def frozen(size: str, classes: int) -> "Racnn":
    """The paper's for ImageNet: phi is the residual network that is retrieved by, and stays."""
    body = Pooled(resnet.of_size(size, classes))
    return Racnn(body, Head((), classes), resnet.SIZES[size][-1][1], classes, frozen=True)


class Embedding(nn.Module):
    """phi: convolutions and a linear layer, `(x, train) -> (batch, dim)`."""

    layers: strided.Layers
    dim: int

    @nn.compact
    def __call__(self, x, train=False):
        last = strided.stack(self.layers, x, train)[f"conv{len(self.layers)}"]
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
        return strided.perceptron(x, self.hidden, self.classes, train)


class Racnn(nn.Module):
    """Features phi(x), projected by attention into the convex hull of neighbours', then classified.

    Called as any network, `(x, train) -> (logits, taps)`, it has the image as its only neighbour; its
    one tap is embedding. `answer` classifies among neighbours. (Zhao & Cho 2018, sections 2.2 and 7;
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

    def answer(self, query, values, nearness=None, train=False):
        """Logits of queries (batch, dim) among neighbours (batch, k, dim)."""
        return self.classify(self.attend(query, values, nearness), values, train)

    def attend(self, query, values, nearness=None):
        """Coefficients alpha, (batch, k): softmax of phi(x_k)^T U phi(x) + nearness, (batch, k)."""
        scores = jnp.einsum("bkd,bd->bk", values, self.attention(query))
        return jax.nn.softmax(scores if nearness is None else scores + nearness)

    def classify(self, alpha, values, train=False):
        """Logits of the point with coefficients alpha, (batch, k), among neighbours (batch, k, dim)."""
        return self.head(jnp.einsum("bk,bkd->bd", alpha, values), train)

    def adopt(self, variables: Any, others: Any) -> Any:
        """The variables with those of a residual network in the place of phi's, and its last layer's in
        that of g's, as the paper has it for ImageNet (section 5.4)."""
        found = {kind: {**held, "body": {"net": others[kind]}} for kind, held in variables.items()}
        head = {"fc": others["params"]["fc"]}
        return {**found, "params": {**found["params"], "head": head}}

    def lipschitz(self, variables: Any, layer: str) -> float:
        """inf: attention over features of any length has no bound."""
        return float("inf")
