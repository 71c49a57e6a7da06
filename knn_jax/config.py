"""Every knob of a recipe, as frozen dataclasses; imports no jax."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Data:
    """Where images and labels come from."""

    name: str = "digits"
    """`digits` (embedded), a TFDS set by name, or the path of an .npz with train_images, ..."""
    data_dir: str = "~/tensorflow_datasets"
    """Where TFDS sets are prepared."""
    valid_fraction: float = 0.1
    """Of the training images, held out by class; the bank is the rest."""
    split_seed: int = 2019
    """Of the held-out split."""
    train_images: int = 0
    """Training images that are used, the first so many, the held-out ones included; 0: all."""
    size: int = 0
    """Side in pixels that images are resized to; 0: as they are."""
    candidates: str = ""
    """Split from which racnn retrieves, as SVHN's `extra`; empty: the training images."""


@dataclass(frozen=True)
class Net:
    """The network whose layers are searched."""

    name: Literal[
        "mnist",
        "mnist_autoencoder",
        "mnist_vae",
        "mnist_lipschitz",
        "digits",
        "digits_autoencoder",
        "digits_vae",
        "digits_lipschitz",
        "digits_resnet",
        "cifar10_resnet",
        "digits_vgg",
        "mnist_vgg",
        "cifar10_vgg",
        "digits_resnet18",
        "imagenette_resnet18",
        "imagenet_resnet18",
        "cifar_resnet18",
        "small_resnet18",
        "digits_strided",
        "small_strided",
        "cifar10_strided",
        "digits_racnn",
        "small_racnn",
        "cifar10_racnn",
        "imagenet_racnn",
        "digits_idresnet",
        "mnist_idresnet",
        "small_idresnet",
        "cifar10_idresnet",
        "pixels",
    ] = "digits"
    """`mnist`: paper 1's trunk; `digits`: a small one; both also as the encoder of a (variational)
    autoencoder, and with 1-Lipschitz layers; `cifar10_resnet`: paper 1's residual network;
    `cifar10_vgg` and `imagenette_resnet18`: paper 4's; `mnist_vgg`: a small one; `cifar10_strided`:
    paper 2's, `cifar10_racnn`: the same, to answer among retrieved neighbours; `idresnet`: paper 3's;
    `cifar_resnet18`: paper 5's; of papers 2, 3 and 5 also `small`; for digits one of each; `pixels`:
    the image itself, not trained."""
    sweeps: int = 12
    """Of the 1-Lipschitz layers towards isometries; 0: only divided by a bound of their norm."""
    subspaces: int = 2
    """Of idresnet's output, whose distances in each are added."""
    dim: int = 15
    """Of each of these subspaces."""
    shared: bool = True
    """Whether idresnet's three inner layers have the same weights."""
    identity: bool = True
    """Whether its layers add to what they are given, at first nothing; a simple MLP without."""
    channels: int = 0
    """Of the image that they are given, as convolutions of 5x5; 0: numbers, and dense layers."""
    frozen: bool = False
    """Whether racnn's features are those of the resnet18 that it retrieves by, and stay as they are."""
    half: bool = False
    """Whether a resnet18's convolutions are in bfloat16 while it is trained."""
    weights: str = ""
    """An .npz of PyTorch weights to use instead of training."""


@dataclass(frozen=True)
class Defense:
    """What the network is trained for."""

    name: Literal[
        "basic",
        "soft_neighbors",
        "input_mixup",
        "manifold_mixup",
        "rotation",
        "autoencoder",
        "vae",
        "lipschitz",
        "trades",
        "ask",
        "racnn",
        "idresnet",
        "noisy",
        "repulsive",
        "prototypes",
    ] = "basic"
    """`basic`: cross-entropy; see `knn_jax.defenses` for the others."""
    weight: float = 1.0
    """Of the loss that parts the classes beside the other: soft_neighbors, lipschitz, ask."""
    layers: tuple[str, ...] = ()
    """Whose neighbours ask and soft_neighbors count, the latter by default in all but the last; the one
    by whose features, in the network trained first, racnn retrieves; the one that prototypes lie in."""
    temperature: float = 0.0
    """Of these neighbours; 0: 0.1 of ask's cosine, 100 of soft_neighbors' squared distance."""
    apart: float = 4.0
    """Squared distance at which lipschitz parts classes no more."""
    adversary: Literal["none", "l2", "linf"] = "none"
    """Training images are perturbed to raise their loss, by steps in this norm."""
    eps: float = 0.0
    """Radius of the ball they stay in; 0: L2 steps are not projected, as in paper 1's code."""
    steps: int = 40
    """Gradient steps of the adversary."""
    step_size: float = 0.1
    """Length of each, in its norm."""
    generator: Literal["pgd", "trades"] = "pgd"
    """What ask is added to, both with the adversary's eps, steps and step_size."""
    beta: float = 6.0
    """Of trades: how much it counts that perturbed images move the classes' shares."""
    eps_ask: float = 0.0
    """Radius of the ball in which ask's own images stay; 0: twice eps."""
    references: int = 5
    """Training images of each class that ask draws for each step."""
    neighbors: int = 10
    """That racnn retrieves for each image of a step (K)."""
    ce_steps: int = 1
    """Of racnn by cross-entropy, before the next by local mixup."""
    mixup_steps: int = 5
    """Of racnn by local mixup, before the next by cross-entropy; 0: no mixup."""
    project: int = 0
    """Numbers that racnn projects the features it retrieves by to at random; 0: as they are."""
    noise: Literal["none", "binomial", "uniform", "normal"] = "binomial"
    """What idresnet and noisy add to normalised pixels: 2X - 5 of X ~ B(5, .5), or as much of another
    kind."""
    pull: float = 0.25
    """Of idresnet's points towards zero, K mu in paper 3."""
    decay: float = 0.5
    """Of its force with distance, lambda there; kfgsm has the same."""
    near: float = 7.0
    """Distance below which points of one class attract each other no more, l_0 there."""
    distance: Literal["l2", "linf", "cosine"] = "l2"
    """Of repulsive's prototypes from each other and of an image from its own, d in paper 5."""
    dim: int = 0
    """Of the space of repulsive's prototypes, D there; 0: ten times the classes."""
    count: int = 100
    """Prototypes of each class that prototypes trains."""
    radius: float = 2.5
    """Certified radius in L2 of the features above which it asks no more."""


@dataclass(frozen=True)
class Optim:
    """How the network is trained."""

    optimizer: Literal["adam", "sgd"] = "adam"
    """`sgd` has Nesterov's momentum of 0.9."""
    peak_lr: float = 1e-3
    """Learning rate before any drop."""
    batch_size: int = 128
    """Images a step; the last batch of an epoch is masked, not dropped."""
    epochs: int = 15
    """Passes over the training images."""
    drops: tuple[int, ...] = ()
    """Epochs at which the learning rate falls to a tenth."""
    cycles: int = 0
    """How often it rises from 0 to the peak and falls back, in equal parts of training; 0: it does
    not."""
    weight_decay: float = 0.0
    """Times each parameter is added to its gradient, before the optimizer scales it."""
    augment: Literal["none", "crop", "affine"] = "none"
    """What is changed at random, see `knn_jax.augment`: `crop` crops and mirrors images, `affine`
    turns, shears, moves, scales and brightens them besides."""
    stopping_eps: float = 0.0
    """Radius in Linf of the PGD under which validation images choose the epoch whose variables are
    kept (early stopping); 0: the last."""
    seed: int = 2019
    """Of the initialisation and of the order of images."""


@dataclass(frozen=True)
class Classifier:
    """What decides on top of the network."""

    name: Literal["knn", "network", "retrieval", "prototypes"] = "knn"
    """`knn`: neighbours in the layers vote; `network`: its own output, whatever k and the layers;
    `retrieval`: racnn's answer among the k rows that it retrieves, whatever the layers; `prototypes`:
    the nearest of those that repulsive or prototypes has, whatever k and the layers."""
    layers: tuple[str, ...] = ("relu3",)
    """Taps that are searched; the votes of several are added."""
    metric: Literal["l2", "cosine", "subspaces"] = "l2"
    """Of the search; `cosine` divides features by their length first, `subspaces` adds the distances
    in each of net.subspaces."""
    k: int = 75
    """Neighbours that vote."""
    top: int = 1
    """Classes that network and retrieval name, among which the right one must be (accuracy@5: 5)."""
    bank_rows: int = 0
    """Training images in the bank, the first so many; 0: all."""


@dataclass(frozen=True)
class Attack:
    """The attacks for the smallest perturbation and what they are run on."""

    images: int = 200
    """Test images, from the first."""
    names: tuple[
        Literal[
            "minimum_norm",
            "guided",
            "hinged",
            "boundary",
            "fgsm",
            "ifgsm",
            "deepfool",
            "lbfgs",
            "pgd",
            "pgd_loss",
            "kfgsm",
            "ask",
            "dknn",
            "adv_knn",
        ],
        ...,
    ] = ("minimum_norm",)
    """`guided`: paper 1's, `hinged`: its successor, `boundary`: by the vote alone, `lbfgs`; these in L2
    only. `fgsm`, `ifgsm` and `deepfool`: paper 2's, as `lbfgs` and `boundary`. `pgd`, paper 5's
    `pgd_loss` up the loss that was trained with, paper 3's `kfgsm`, and paper 4's `ask` with its
    baselines `dknn` and `adv_knn`: in the ball of each radius."""
    sources: tuple[Literal["model", "network", "held", "substitute"], ...] = ("model",)
    """Whose gradients pgd, pgd_loss, fgsm, ifgsm, deepfool and lbfgs follow: the classifier's with its
    retrieval; the bare network's, of racnn that which it retrieves by; racnn's with its neighbours
    held; those of the same network trained by cross-entropy, from which examples transfer."""
    norms: tuple[Literal["l2", "linf"], ...] = ("l2",)
    """Each attack is run in each that it has."""
    steps: int = 60
    """Gradients of minimum_norm for each start; hinged and boundary have their papers' settings."""
    starts: int = 6
    """Of minimum_norm: the image, the image with noise, rows of other classes, the best of these."""
    baseline_images: int = 0
    """Test images of the other attacks, which take thousands of steps; 0: as many as `images`."""
    guided_steps: int = 500
    """Of guided in each of its 10 rounds; paper 1 took 1,000 on robust networks."""
    guided_constant: float = 1e-3
    """Of guided in its first round; 0.1 on robust networks."""
    guided_rate: float = 0.1
    """Learning rate of guided; 0.01 on CIFAR-10."""
    guided_guides: int = 100
    """Rows that guided draws near: too many for a small k, where 1 does."""
    radii: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0)
    """L2 radii at which robust and certified accuracy are reported."""
    radii_linf: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3)
    """The same for Linf."""
    chunk: int = 100
    """Images between saves: what an interruption loses at most."""
    seed: int = 0
    """Of the noise."""

    def within(self, norm: Literal["l2", "linf"]) -> tuple[float, ...]:
        """The radii of that norm."""
        return self.radii if norm == "l2" else self.radii_linf


@dataclass(frozen=True)
class Ball:
    """The attacks that are run in a ball of each radius."""

    steps: int = 20
    """Gradient steps of each."""
    step_size: float = 0.25
    """Length of a step, in radii."""
    restarts: int = 1
    """From points drawn in the ball; the best counts."""
    trials: int = 1
    """How often all is done anew; more than one give means with 95% intervals."""
    refresh: int = 5
    """Steps of pgd between retrievals."""
    refresh_ask: int = 0
    """Steps of ask between retrievals; 0: its references are those of the clean image."""
    metric: Literal["cosine", "l2"] = "cosine"
    """Similarity that ask and dknn count with."""
    temperature: float = 0.03
    """Of ask."""
    tune: int = 0
    """Test images on which ask first chooses its temperature and the weights of layers; 0: none."""
    layers: tuple[str, ...] = ()
    """Layers that ask attacks instead of classifier.layers."""
    k: int = 0
    """Nearest rows of the own class that ask counts; 0: classifier.k."""
    others: int = 0
    """Of each other class; 0: as many."""
    targeted: bool = False
    """Whether ask goes for the class nearest on average."""
    drawn: bool = False
    """Whether ask draws rows of other classes at random."""
    slope: float = 4.0
    """Of dknn's sigmoid."""
    epochs: int = 100
    """Of the network that imitates the vote for adv_knn."""


@dataclass(frozen=True)
class Certify:
    """The certificates and what they are run on."""

    images: int = 0
    """Test images, from the first; 0: as many as are attacked."""
    own: int = 16
    """Rows of the image's class in the Voronoi bound."""
    other: int = 1024
    """Rows of other classes in it."""
    exact: bool = False
    """Whether to compute the exact radius besides, which there is for odd k."""
    smoothing: float = 0.0
    """Deviation of the noise that smooths the classifier for a certificate of its own; 0: none."""
    samples: int = 10_000
    """Of that noise for each image."""
    alpha: float = 0.001
    """Probability that such a certificate is wrong."""
    chunk: int = 1000
    """Images between saves."""


@dataclass(frozen=True)
class Analyze:
    """What is measured of the features and votes besides."""

    images: int = 0
    """Test images, from the first, whose local dimension and Jacobian norm are measured; 0: none."""
    neighbors: int = 3000
    """Nearest rows that the local dimension is estimated from."""
    steps: int = 100
    """Lanczos steps for the Jacobian norm, at most: 64 know it to 1% on MNIST, 66 on CIFAR-10."""
    credibility: int = 0
    """Test images whose credibility is compared to adversarial, turned and noise images'; 0: none."""
    points: int = 0
    """Training and test images whose places in idresnet's subspaces of 3 dimensions are drawn."""
    chunk: int = 100
    """Images between saves."""


@dataclass(frozen=True)
class Config:
    """One recipe."""

    name: str
    data: Data = field(default_factory=Data)
    net: Net = field(default_factory=Net)
    defense: Defense = field(default_factory=Defense)
    optim: Optim = field(default_factory=Optim)
    classifier: Classifier = field(default_factory=Classifier)
    attack: Attack = field(default_factory=Attack)
    ball: Ball = field(default_factory=Ball)
    certify: Certify = field(default_factory=Certify)
    analyze: Analyze = field(default_factory=Analyze)
    reported: dict[str, dict[str, float]] = field(default_factory=dict)
    """The paper's own figures, by classifier.layers (joined by +; racnn's by defense.layers, a
    network's by `output`): clean_acc; of its attack mean_l2, acc_l2_1 (accuracy within 1, ...) and
    acc_linf_0.1; of its certificate mean_radius and cert_1. Of one attack of several: `relu3, NAME`."""

    def asdict(self) -> dict:
        """As JSON has it: tuples are lists."""

        def plain(value):
            return [plain(v) for v in value] if isinstance(value, tuple) else value

        return {
            section: {k: plain(v) for k, v in values.items()} if isinstance(values, dict) else values
            for section, values in dataclasses.asdict(self).items()
        }
