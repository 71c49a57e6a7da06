"""Networks as values, and their modules as pure functions `(x, train) -> (output, layers)`.

The only place that imports flax. A network is one file: its value, its module, and a function for each
of its sizes.
"""

from knn_jax.nets.all_conv import AllConv, cifar10_all_conv, digits_all_conv, small_all_conv
from knn_jax.nets.autoencoder import (
    VAE,
    Autoencoder,
    digits_autoencoder,
    digits_vae,
    mnist_autoencoder,
    mnist_vae,
)
from knn_jax.nets.convnet import ConvNet, digits_convnet, mnist_convnet
from knn_jax.nets.idresnet import (
    IdResNet,
    cifar10_idresnet,
    digits_idresnet,
    mnist_idresnet,
    small_idresnet,
)
from knn_jax.nets.layers import features, layer_shapes, output, taps
from knn_jax.nets.lipschitz import (
    LipschitzAutoencoder,
    digits_lipschitz_autoencoder,
    mnist_lipschitz_autoencoder,
)
from knn_jax.nets.mlp import MLP
from knn_jax.nets.net import STATISTICS, Bounded, Module, Net
from knn_jax.nets.pixels import Pixels
from knn_jax.nets.preact_resnet import PreActResNet, cifar10_preact_resnet, digits_preact_resnet
from knn_jax.nets.prototypes import PrototypesModule
from knn_jax.nets.racnn import (
    FrozenRaCNN,
    RaCNN,
    RetrievalAugmented,
    answering,
    cifar10_racnn,
    digits_frozen_racnn,
    digits_racnn,
    imagenet_racnn,
    small_racnn,
)
from knn_jax.nets.repulsion import repulsive, separation, simplex
from knn_jax.nets.resnet import (
    ResNet,
    cifar_resnet18,
    digits_resnet,
    imagenet_resnet18,
    imagenette_resnet18,
    small_resnet,
    torchvision_resnet18,
)
from knn_jax.nets.torch_weights import load_weights
from knn_jax.nets.vgg import VGG, cifar10_vgg, digits_vgg, mnist_vgg

__all__ = [
    "MLP",
    "STATISTICS",
    "VAE",
    "VGG",
    "AllConv",
    "Autoencoder",
    "Bounded",
    "ConvNet",
    "FrozenRaCNN",
    "IdResNet",
    "LipschitzAutoencoder",
    "Module",
    "Net",
    "Pixels",
    "PreActResNet",
    "PrototypesModule",
    "RaCNN",
    "ResNet",
    "RetrievalAugmented",
    "answering",
    "cifar10_all_conv",
    "cifar10_idresnet",
    "cifar10_preact_resnet",
    "cifar10_racnn",
    "cifar10_vgg",
    "cifar_resnet18",
    "digits_all_conv",
    "digits_autoencoder",
    "digits_convnet",
    "digits_frozen_racnn",
    "digits_idresnet",
    "digits_lipschitz_autoencoder",
    "digits_preact_resnet",
    "digits_racnn",
    "digits_resnet",
    "digits_vae",
    "digits_vgg",
    "features",
    "imagenet_racnn",
    "imagenet_resnet18",
    "imagenette_resnet18",
    "layer_shapes",
    "load_weights",
    "mnist_autoencoder",
    "mnist_convnet",
    "mnist_idresnet",
    "mnist_lipschitz_autoencoder",
    "mnist_vae",
    "mnist_vgg",
    "output",
    "repulsive",
    "separation",
    "simplex",
    "small_all_conv",
    "small_idresnet",
    "small_racnn",
    "small_resnet",
    "taps",
    "torchvision_resnet18",
]
