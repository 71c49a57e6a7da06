"""The k nearest neighbours as users of PyTorch attack them: soft votes of the whole bank, and Foolbox.

Foolbox differentiates a network's logits, so that a vote needs soft ones: of each class the logarithm
of the sum of exp(-|x - b|^2 / temperature) over its rows b. Each gradient goes through all rows.
"""

from collections.abc import Callable

import numpy as np

Attack = Callable[[], tuple[np.ndarray, np.ndarray]]  # -> images, and whether soft votes are fooled
BATCH = 128  # images at once: their distances to a million rows are 512 MB


class SoftNeighbors:
    """Attacks of Foolbox on a bank of images (row, height, width, channel), in PyTorch.

    Raises ImportError where PyTorch or Foolbox is missing.
    """

    def __init__(self, images, labels, classes: int, temperature: float):
        import foolbox
        import torch

        self.torch, self.attacks = torch, foolbox.attacks
        images = torch.from_dlpack(images)
        order = torch.argsort(torch.from_dlpack(labels))
        counts = torch.bincount(torch.from_dlpack(labels), minlength=classes).tolist()
        bank = images.flatten(1)[order]
        norm = bank.square().sum(1)

        class Logits(torch.nn.Module):
            def forward(self, x):
                x = x.flatten(1)
                squared = x.square().sum(1, keepdim=True) + torch.addmm(norm, x, bank.T, alpha=-2)
                parts = (-squared / temperature).split(counts, 1)
                return torch.stack([part.logsumexp(1) for part in parts], 1)

        self.model = foolbox.PyTorchModel(Logits().eval(), bounds=(0, 1), device=images.device)

    def pgd(self, x, y, eps: float, steps: int) -> Attack:
        """Linf-PGD, by steps of 2.5 eps / steps as ours."""
        attack = self.attacks.LinfProjectedGradientDescentAttack(steps=steps, rel_stepsize=2.5 / steps)
        return self._run(attack, x, y, eps)

    def ddn(self, x, y, steps: int) -> Attack:
        """Rony et al. 2019: the smallest L2 norm, from which our minimum_norm descends."""
        return self._run(self.attacks.DDNAttack(steps=steps), x, y, None)

    def _run(self, attack, x, y, eps):
        x, y = self.torch.from_dlpack(x), self.torch.from_dlpack(y).long()

        def run() -> tuple[np.ndarray, np.ndarray]:
            pairs = zip(x.split(BATCH), y.split(BATCH), strict=True)
            found = [attack(self.model, *pair, epsilons=eps)[1:] for pair in pairs]
            image, fooled = (self.torch.cat(leaves).cpu() for leaves in zip(*found, strict=True))
            return image.numpy(), fooled.numpy()

        return run
