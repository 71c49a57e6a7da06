"""The embedded default: kNN on a small network trained on scikit-learn's 1,797 digits.

    python attack.py configs/digits.py

2 CPU cores: see README.md. No paper reports these digits.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="digits",
        data=config.Data(name="digits"),
        net=config.Net(name="digits"),
        optim=config.Optim(epochs=30),
        classifier=config.Classifier(layers=("relu3",), k=5),
        attack=config.Attack(
            images=200,
            norms=("l2", "linf"),
            steps=60,
            starts=6,
            radii=(0.05, 0.1, 0.25, 0.5, 1.0),
            radii_linf=(0.05, 0.1, 0.15, 0.2),
        ),
        analyze=config.Analyze(neighbors=300),
    )
