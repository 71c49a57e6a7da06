"""The publications that recipes reproduce, cited once; a recipe adds what they report of its system."""

from knn_jax.recipe.recipe import Paper

SITAWARIN_WAGNER = Paper(
    title="Defending Against Adversarial Examples with K-Nearest Neighbor",
    authors="Chawin Sitawarin, David Wagner",
    year=2019,
    link="https://arxiv.org/abs/1906.09525",
)
ZHAO_CHO = Paper(
    title="Retrieval-Augmented Convolutional Neural Networks for Improved Robustness against "
    "Adversarial Examples",
    authors="Jake (Junbo) Zhao, Kyunghyun Cho",
    year=2018,
    link="https://arxiv.org/abs/1802.09502",
)
QIAN_AN_SU = Paper(
    title="K-NN with Identity Initialized ResNet: A Deep Learning Model Empirically Robust against "
    "L-infinity Projected Gradient Descent Attack",
    authors="Yicheng Qian, Boshi An, Bowen Su",
    year=None,  # the text has no date: its latest reference is of October 2021
    link="https://github.com/totorato/PotentialNet",
)
WANG = Paper(
    title="ASK: Adversarial Soft k-Nearest Neighbor Attack and Defense",
    authors="Ren Wang, Tianqi Chen, Philip Yao, Sijia Liu, Indika Rajapakse, Alfred Hero",
    year=2021,
    link="https://arxiv.org/abs/2106.14300",
)
SERBAN = Paper(
    title="Deep Repulsive Prototypes for Adversarial Robustness",
    authors="Alex Serban, Erik Poll, Joost Visser",
    year=2021,
    link="https://arxiv.org/abs/2105.12427",
)
PAPERNOT_MCDANIEL = Paper(
    title="Deep k-Nearest Neighbors: Towards Confident, Interpretable and Robust Deep Learning",
    authors="Nicolas Papernot, Patrick McDaniel",
    year=2018,
    link="https://arxiv.org/abs/1803.04765",
)
