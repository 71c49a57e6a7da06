"""Other implementations of Zhao & Cho's attacks, on Sitawarin & Wagner's network in PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

try:
    import foolbox
    import torch
    from scipy.optimize import fmin_l_bfgs_b
except ImportError as error:
    raise SystemExit(f"{error.name} is missing: pip install foolbox torch scipy") from None

LAYERS = ((1, 64, 8, 2, 3), (64, 128, 6, 2, 3), (128, 128, 5, 1, 0))  # channels, size, stride, padding


class Rivals:
    """Each attack returns the L2 norms (image,) that it finds, inf where it finds none."""

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        logits: Callable,
        x: np.ndarray,
        y: np.ndarray,
        threads: int,
    ):
        """`weights` are a state dict of the network, `logits` its function in JAX, x NHWC."""
        torch.set_num_threads(threads)
        network = torch.nn.Sequential()
        for layer in LAYERS:
            network.extend([torch.nn.Conv2d(*layer), torch.nn.ReLU()])
        network.extend([torch.nn.Flatten(), torch.nn.Linear(2048, 10)])
        names = [
            f"{layer}.{kind}"
            for layer in ("conv1", "conv2", "conv3", "fc")
            for kind in ("weight", "bias")
        ]
        state = {
            own: torch.tensor(weights[name])
            for own, name in zip(network.state_dict(), names, strict=True)
        }
        network.load_state_dict(state)
        self.network = network.eval().requires_grad_(False)
        self.model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
        self.x, self.y = _nchw(x), torch.tensor(y).long()
        self.in_jax = foolbox.JAXModel(logits, bounds=(0, 1)), x, y

    def _norms(self, image: Any, fooled: Any) -> np.ndarray:
        norms = (image - self.x).flatten(1).norm(dim=1)
        return torch.where(fooled, norms, torch.inf).numpy()

    def _least(self, attack: Any, sizes: int) -> np.ndarray:
        grid = np.linspace(0, 1, sizes + 1)[1:].tolist()
        images, _, fooled = attack(self.model, self.x, self.y, epsilons=grid)
        return np.min([self._norms(*pair) for pair in zip(images, fooled, strict=True)], 0)

    def fgsm(self, sizes: int) -> np.ndarray:
        return self._least(foolbox.attacks.LinfFastGradientAttack(), sizes)

    def ifgsm(self, sizes: int, steps: int) -> np.ndarray:
        attack = foolbox.attacks.LinfBasicIterativeAttack(steps=steps, rel_stepsize=1 / steps)
        return self._least(attack, sizes)

    def deepfool(self) -> np.ndarray:
        attack = foolbox.attacks.L2DeepFoolAttack()
        image, _, fooled = attack(self.model, self.x, self.y, epsilons=None)
        return self._norms(image, fooled)

    def deepfool_in_jax(self) -> np.ndarray:
        """By Foolbox's JAXModel, whose operations run one by one."""
        import jax.numpy as jnp

        model, x, y = self.in_jax
        image, _, fooled = foolbox.attacks.L2DeepFoolAttack()(
            model, jnp.asarray(x), jnp.asarray(y), epsilons=None
        )
        norms = np.linalg.norm((np.asarray(image) - x).reshape(len(x), -1), axis=1)
        return np.where(np.asarray(fooled), norms, np.inf)

    def boundary(self, steps: int, starts: np.ndarray) -> np.ndarray:
        attack = foolbox.attacks.BoundaryAttack(steps=steps)
        found = attack(self.model, self.x, self.y, epsilons=None, starting_points=_nchw(starts))
        return self._norms(found[0], found[2])

    def lbfgs(self, rounds: int, steps: int) -> np.ndarray:
        """Image by image; the constant grows tenfold until it fools, then is bisected."""
        return np.array([self._lbfgs(x, y, rounds, steps) for x, y in zip(self.x, self.y, strict=True)])

    def _lbfgs(self, x: Any, y: Any, rounds: int, steps: int) -> float:
        scores = self.network(x[None])[0]
        scores[y] = -torch.inf
        target = scores.argmax()[None]
        constant, failed, fooled, best = 1.0, 0.0, np.inf, np.inf

        def loss(z):
            z = torch.tensor(z, dtype=torch.float32).reshape(1, *x.shape).requires_grad_()
            entropy = torch.nn.functional.cross_entropy(self.network(z), target)
            value = torch.sum((z - x) ** 2) + constant * entropy
            (gradient,) = torch.autograd.grad(value, z)
            return value.item(), gradient.double().numpy().ravel()

        for _ in range(rounds):
            z = fmin_l_bfgs_b(
                loss, x.double().numpy().ravel(), bounds=[(0, 1)] * x.numel(), maxiter=steps
            )[0]
            image = torch.tensor(z, dtype=torch.float32).reshape(1, *x.shape)
            if self.network(image).argmax() != y:
                fooled, best = constant, min(best, float(torch.norm(image - x)))
            else:
                failed = constant
            constant = 10 * constant if fooled == np.inf else (failed + fooled) / 2
        return best


def _nchw(images: np.ndarray) -> Any:
    return torch.tensor(images).permute(0, 3, 1, 2).contiguous()
