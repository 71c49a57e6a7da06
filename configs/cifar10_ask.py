r"""Wang et al.'s defense on CIFAR-10: DkNN on conv3 and conv4 of a VGG16 trained by ASK-Def (Table 6).

    python attack.py configs/cifar10_ask.py

An accelerator's work: 200 epochs of 45,000 images (the paper: 50,000) by SGD (rate .1, a tenth
after 100) with 10 steps within 4/255 and 10 within 8/255, images cropped and mirrored.
Training and attacks resume; a forward pass of the VGG16 takes 0.6 GFLOP an image. Its baselines AT,
AT + SNN and TRADES are `--defense.name basic`, `soft_neighbors` and `trades`, each with its
`--name` and `--workdir`. The paper's attacks are on the network trained by AT (Tables 1 and 3).

In small, an hour of one shared CPU core, clean .344 of a JPEG copy:

    ... --name cifar10_ask_few --workdir runs/cifar10_ask_few --data.train-images 2000 \
        --defense.steps 1 --defense.step-size .01569 --optim.optimizer adam --optim.peak-lr .001 \
        --optim.batch-size 100 --optim.epochs 9 --optim.drops --classifier.bank-rows 0 \
        --attack.names ask minimum_norm --attack.images 100 --attack.steps 30 --attack.starts 3 \
        --attack.chunk 100 --ball.trials 1 --ball.tune 20

Its studies: Table 3 is `--classifier.layers`, Table 4 that beside `--ball.layers`, Figure 4
`--ball.tune 0 --ball.temperature 0.3` and `--ball.k`, Table 8's network without neighbours
`--classifier.name network --attack.names pgd`, Table 9 `--ball.targeted`, Table 10
`--ball.drawn`, Table 11 `--classifier.k` beside `--ball.k`, Table 12 `--ball.k` beside
`--ball.others`, Table 14 `--ball.steps`; the similarity of Table 1's other half is `--ball.metric
l2 --classifier.metric l2`.

Table 6 reports, for all 10,000 test images, accuracies of .459 on both layers, .427 and .436 on
conv3 and conv4 (`--classifier.layers conv4`) under ASK-Atk within 8/255, on images that are no JPEG
copy.
"""

from knn_jax import config


def get_config() -> config.Config:
    return config.Config(
        name="cifar10_ask",
        data=config.Data(name="cifar10"),
        net=config.Net(name="cifar10_vgg"),
        defense=config.Defense(
            name="ask",
            layers=("conv4",),
            adversary="linf",
            eps=4 / 255,
            eps_ask=8 / 255,
            steps=10,
            step_size=2 / 255,
        ),
        optim=config.Optim(
            optimizer="sgd", peak_lr=0.1, epochs=200, drops=(100,), weight_decay=2e-4, augment="crop"
        ),
        classifier=config.Classifier(layers=("conv3", "conv4"), metric="cosine", k=5, bank_rows=20_000),
        attack=config.Attack(
            images=10_000,
            names=("ask", "dknn", "adv_knn", "pgd"),
            norms=("linf",),
            radii_linf=(2 / 255, 4 / 255, 6 / 255, 8 / 255),
            chunk=500,
        ),
        ball=config.Ball(tune=500),
        reported={
            "conv3+conv4": {"acc_linf_0.03137": 0.459},
            "conv3": {"acc_linf_0.03137": 0.427},
            "conv4": {"acc_linf_0.03137": 0.436},
        },
    )
