"""DkNN (Papernot & McDaniel 2018) on MNIST: 75-NN on all layers of Sitawarin & Wagner's Basic network.

    python attack.py configs/mnist_dknn.py

Trains 6 epochs (Adam 1e-3, batch 128), searches 10,000 training images in each layer, attacks the
first 50 test images and compares their credibility to that of 1,000 clean ones, of these turned by a
quarter and of noise, calibrated by the 6,000 validation images.

On the authors' weights of that network (`results/mnist_dknn.json`): accuracy .9786; mean L2 1.587 of
the first 50, some 15 s each on one CPU core; mean credibility of 1,000 clean images .494, uniform as it
should be, turned .049, noise .018.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="mnist_dknn",
        data=config.Data(name="mnist"),
        net=config.Net(name="mnist"),
        optim=config.Optim(epochs=6),
        classifier=config.Classifier(layers=("relu1", "relu2", "relu3", "fc"), k=75, bank_rows=10_000),
        attack=config.Attack(images=50, steps=60, starts=6, chunk=10),
        analyze=config.Analyze(credibility=1000, chunk=500),
    )
