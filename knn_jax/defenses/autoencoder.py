"""Unsupervised representations: the encoders of autoencoders."""

import math

import jax
import jax.numpy as jnp
import optax

from knn_jax import nets, values
from knn_jax.defenses.adversarial import Perturbable
from knn_jax.nets import Module
from knn_jax.training import Objective


@values.value
class Autoencoder(Perturbable):
    """The squared error of the restored image; for a perturbed image the target is the clean one."""

    classifies = False
    only = nets.Autoencoder
    cites = "Sitawarin & Wagner 2019, arXiv:1906.09525, section 4.1"

    def unperturbed(self, module: Module) -> Objective:
        """|net(x) - x|^2, summed over pixels."""

        def loss(variables, key, batch):
            del key
            found, _ = module.apply(variables, batch.x)
            return jnp.sum(jnp.square(found - batch.clean.reshape(found.shape)), 1)

        return Objective(module.init, loss, None)


@values.value
class VAE(Perturbable):
    """The evidence lower bound with Bernoulli pixels, in bits a pixel."""

    classifies = False
    only = nets.VAE
    cites = "Kingma & Welling 2014, arXiv:1312.6114; Sitawarin & Wagner 2019, arXiv:1906.09525"

    def unperturbed(self, module: Module) -> Objective:
        """Minus the bound."""
        assert isinstance(self.net, nets.VAE)
        latent = self.net.latent

        def loss(variables, key, batch):
            noise = jax.random.normal(key, (len(batch.x), latent))
            logits, taps = module.apply(variables, batch.x, noise=noise)
            target = batch.clean.reshape(logits.shape)
            error = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, target), 1)
            mean, logvar = taps["mean"], taps["logvar"]
            divergence = -jnp.sum(1 + logvar - jnp.square(mean) - jnp.exp(logvar), 1) / 2
            return (error + divergence) / (logits.shape[1] * math.log(2))

        return Objective(module.init, loss, None)
