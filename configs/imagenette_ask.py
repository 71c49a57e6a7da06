"""Wang et al.'s defense on Imagenette: DkNN on two layers of a ResNet-18 trained by ASK-Def (Table 6).

    python attack.py configs/imagenette_ask.py

It needs TFDS's imagenette/160px-v2 prepared, 100 MB, and an accelerator: 200 epochs of 8,995 images
(the paper: 9,469) of 128x128 with 10 steps within 2/255 and 10 within 4/255; a forward pass takes
1.2 GFLOP an image. The paper searches 850 training images of each class; here the first 8,500.

Table 6 reports, for the 3,925 test images, accuracies of .358 on both layers, .379 and .306 on
conv3 and conv4 under ASK-Atk within 8/255.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="imagenette_ask",
        data=config.Data(name="imagenette/160px-v2", size=128, valid_fraction=0.05),
        net=config.Net(name="imagenette_resnet18"),
        defense=config.Defense(
            name="ask",
            layers=("conv4",),
            adversary="linf",
            eps=2 / 255,
            eps_ask=4 / 255,
            steps=10,
            step_size=1 / 255,
        ),
        optim=config.Optim(
            optimizer="sgd", peak_lr=0.1, epochs=200, drops=(100,), weight_decay=2e-4, augment="crop"
        ),
        classifier=config.Classifier(layers=("conv3", "conv4"), metric="cosine", k=5, bank_rows=8500),
        attack=config.Attack(
            images=3925,
            names=("ask", "dknn", "adv_knn", "pgd"),
            norms=("linf",),
            radii_linf=(4 / 255, 8 / 255),
            chunk=100,
        ),
        ball=config.Ball(tune=100),
        reported={
            "conv3+conv4": {"acc_linf_0.03137": 0.358},
            "conv3": {"acc_linf_0.03137": 0.379},
            "conv4": {"acc_linf_0.03137": 0.306},
        },
    )
