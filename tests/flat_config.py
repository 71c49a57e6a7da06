"""The flat configuration of knn_jax 0.1, which published results hold, as the values of a recipe."""

from dataclasses import replace

from knn_jax import attacks, certificates, data, defenses, measures, neighbors, nets
from knn_jax.recipe import Evaluate, Recipe, fit
from knn_jax.training import Adversary, Optim

# Knobs that came after some of the results were made, with what they were before.
LATER = {
    "net": {"channels": 0, "frozen": False, "half": False},
    "defense": {"count": 100, "dim": 0, "distance": "l2", "radius": 2.5},
    "optim": {"cycles": 0, "stopping_eps": 0.0},
    "classifier": {"top": 1},
    "attack": {"guided_guides": 100, "guided_rate": 0.1},
}
NETS = {
    "digits": nets.digits_convnet(),
    "mnist": nets.mnist_convnet(),
    "mnist_autoencoder": nets.mnist_autoencoder(),
    "mnist_vae": nets.mnist_vae(),
    "mnist_lipschitz": nets.mnist_lipschitz_autoencoder(),
    "mnist_vgg": nets.mnist_vgg(),
    "cifar10_vgg": nets.cifar10_vgg(),
    "cifar10_resnet": nets.cifar10_preact_resnet(),
    "small_resnet18": nets.small_resnet(),
    "small_strided": nets.small_all_conv(),
    "small_racnn": nets.small_racnn(),
    "mnist_idresnet": nets.mnist_idresnet(),
    "small_idresnet": nets.small_idresnet(),
    "cifar10_idresnet": nets.cifar10_idresnet(),
    "pixels": nets.Pixels(),
}
METRICS = {
    "l2": neighbors.Euclidean(),
    "linf": neighbors.Chebyshev(),
    "cosine": neighbors.Cosine(),
}
FILES = {"mnist.npz": "mnist", "cifar10.npz": "cifar10"}  # copies of sets of TFDS


def recipe(flat: dict) -> Recipe:
    """What was run, without the paper. A knob that what was run does not use is left out."""
    parts = {name: LATER.get(name, {}) | part for name, part in flat.items() if isinstance(part, dict)}
    parts = {name: {k: _tuple(v) for k, v in part.items()} for name, part in parts.items()}
    return Recipe(
        name=flat["name"],
        data=_data(parts["data"]),
        defense=_defense(parts["defense"], parts["net"], parts["classifier"]),
        optim=_optim(parts["optim"]),
        classifier=_classifier(parts["classifier"], parts["net"], parts["defense"]),
        attacks=(made := _attacks(parts["attack"], parts["ball"], parts)),
        certificates=_certificates(parts),
        measures=_measures(parts["analyze"]),
        evaluate=_evaluate(parts["attack"], parts["certify"], parts["ball"], made),
    )


def _tuple(knob):
    return tuple(knob) if isinstance(knob, list) else knob


def _data(knobs):
    drawn = {name: knobs[name] for name in ("valid_fraction", "split_seed", "train_images")}
    if knobs["name"] == "digits":
        return data.Digits(**drawn)
    size, candidates = knobs["size"], knobs["candidates"]
    name = FILES.get(knobs["name"].rpartition("/")[2], knobs["name"])
    return data.TFDS(name, size=size, candidates=candidates, **drawn)


def _net(knobs):
    assert not {knobs.get("convolutional", False), knobs["frozen"]} - {False}  # no result has them
    net = NETS[knobs["name"]]
    if isinstance(net, nets.LipschitzAutoencoder):
        return replace(net, sweeps=knobs["sweeps"])
    if isinstance(net, nets.ResNet):
        return replace(net, half=knobs["half"])
    if isinstance(net, nets.IdResNet):
        shape = {name: knobs[name] for name in ("subspaces", "dim", "shared", "identity")}
        return replace(net, channels=knobs["channels"] or None, **shape)
    return net


def _adversary(knobs):
    size = knobs["steps"], knobs["step_size"]
    norm = knobs["adversary"]
    return None if norm == "none" else Adversary(norm, knobs["eps"] or None, *size)


def _defense(knobs, net, classifier):
    made = _net(net)
    own = {"weights": net["weights"], "adversary": _adversary(knobs)}
    layers, temperature = knobs["layers"], knobs["temperature"]
    beside = {name: knobs[name] for name in ("weight", "apart", "pull", "decay", "near", "beta")}

    def some(*names):
        return {name: beside[name] for name in names} | own

    noise = None if knobs["noise"] == "none" else knobs["noise"]
    match knobs["name"]:
        case "basic" if net["name"] == "pixels":
            return defenses.Untrained(made)
        case "basic":
            return defenses.CrossEntropy(made, **own)
        case "soft_neighbors":
            warm = {"temperature": temperature or 100.0, "layers": layers or None}
            return defenses.SoftNeighbors(made, **warm, **some("weight"))
        case "input_mixup":
            return defenses.InputMixup(made, **own)
        case "manifold_mixup":
            return defenses.ManifoldMixup(made, **own)
        case "rotation":
            return defenses.Rotation(made, **own)
        case "autoencoder":
            return defenses.Autoencoder(made, **own)
        case "vae":
            return defenses.VAE(made, **own)
        case "lipschitz":
            return defenses.LipschitzAutoencoder(made, **some("weight", "apart"))
        case "trades":
            return defenses.Trades(made, **some("beta"))
        case "ask":
            assert knobs["generator"] == "pgd"
            own |= {"temperature": temperature or 0.1, "references": knobs["references"]}
            eps = knobs["eps_ask"] or None
            return defenses.ASK(made, layers=layers, eps_ask=eps, **some("weight"))
        case "racnn":
            assert classifier["k"] == knobs["neighbors"]  # which were two knobs
            steps = {name: knobs[name] for name in ("neighbors", "ce_steps", "mixup_steps")}
            retriever, project = NETS[net["name"].replace("racnn", "strided")], knobs["project"]
            steps |= {"retriever": retriever, "layer": layers[0], "project": project or None}
            return defenses.RaCNN(made, **steps)
        case "idresnet":
            return defenses.IdResNet(made, noise=noise, **some("pull", "decay", "near"))
        case "noisy":
            return defenses.Noisy(made, noise=noise, **own)
        case "repulsive":
            metric = METRICS[knobs["distance"]]
            return defenses.Repulsive(made, dim=knobs["dim"] or None, metric=metric, **own)
        case "prototypes":
            own |= {"count": knobs["count"], "radius": knobs["radius"]}
            return defenses.Prototypes(made, layer="".join(layers) or None, **own)
    raise ValueError(knobs["name"])


def _optim(knobs):
    augment = knobs["augment"] or "none"  # which was False once
    return Optim(**knobs | {"augment": augment, "stopping_eps": knobs["stopping_eps"] or None})


def _classifier(knobs, net, defense):
    rows, top = knobs["bank_rows"], knobs["top"]
    match knobs["name"]:
        case "network":
            return fit.Network(top=top, rows=rows)
        case "retrieval":
            assert rows == 0
            return fit.Retrieval(top=top)
        case "prototypes":
            assert knobs["metric"] == defense["distance"]  # which were two knobs
            return fit.Prototypes(rows=rows)
    metric = METRICS.get(knobs["metric"]) or neighbors.Subspaces(net["subspaces"])
    return fit.KNN(layers=knobs["layers"], k=knobs["k"], metric=metric, rows=rows)


def _attacks(knobs, ball, parts):
    layers = ball["layers"] if ball["layers"] != parts["classifier"]["layers"] else ()
    steps = {"steps": ball["steps"], "step_size": ball["step_size"]}
    own = steps | {"restarts": ball["restarts"]}
    force = {name: parts["defense"][name] for name in ("decay", "near")}
    metric, k, others = METRICS[ball["metric"]], ball["k"] or None, ball["others"] or ball["k"] or None
    ask = {"refresh": ball["refresh_ask"], "temperature": (ball["temperature"],), "layers": layers}
    ask |= {name: ball[name] for name in ("targeted", "drawn", "tune")}
    every = {
        "minimum_norm": attacks.MinimumNorm(steps=knobs["steps"], starts=knobs["starts"]),
        "guided": attacks.Guided(
            guides=knobs["guided_guides"],
            constant=knobs["guided_constant"],
            learning_rate=knobs["guided_rate"],
            steps=knobs["guided_steps"],
        ),
        "hinged": attacks.Hinged(),
        "boundary": attacks.Boundary(),
        "fgsm": attacks.FGSM(),
        "ifgsm": attacks.IFGSM(),
        "deepfool": attacks.DeepFool(),
        "lbfgs": attacks.LBFGS(),
        "pgd": attacks.PGD(refresh=ball["refresh"], **own),
        "pgd_loss": attacks.LossPGD(**own),
        "kfgsm": attacks.KFGSM(**steps, **force),
        "ask": attacks.ASK(metric=metric, k=k, others=others, **ask, **own),
        "dknn": attacks.DKNN(slope=ball["slope"], metric=metric, **own),
        "adv_knn": attacks.AdvKNN(epochs=ball["epochs"], **own),
    }
    return {name: every[name] for name in knobs["names"]}


def _certificates(parts):
    """The margin and the Voronoi bound were always there where certificates cover the classifier."""
    knobs, decides = parts["certify"], parts["classifier"]
    one = decides["name"] == "prototypes" or (decides["name"] == "knn" and len(decides["layers"]) == 1)
    made = {}
    if one and decides["metric"] == "l2":
        own, other = knobs["own"], knobs["other"]
        made |= {"margin": certificates.Margin(), "voronoi": certificates.Voronoi(own, other)}
    if knobs["exact"]:
        made["exact"] = certificates.Exact()
    if knobs["smoothing"]:
        drawn = knobs["samples"], knobs["alpha"]
        made["smoothing"] = certificates.Smoothing(knobs["smoothing"], *drawn)
    return made


def _measures(knobs):
    assert knobs["steps"] in (40, 100)  # the default, of power iteration once and of Lanczos's now
    images, near, credible, points = (
        knobs[name] for name in ("images", "neighbors", "credibility", "points")
    )
    made = {}
    if images:
        made["local_dimension"] = measures.LocalDimension(images, near)
        made["jacobian_norm"] = measures.JacobianNorm(images)
    if credible:
        made["credibility"] = measures.Credibility(credible)
    if points:
        made["points"] = measures.Points(points)
    return made


def _evaluate(knobs, certify, ball, made):
    names = "images", "baseline_images", "norms", "radii", "radii_linf", "chunk", "seed"
    drawing = any(isinstance(one, attacks.BallAttack) and one.draws for one in made.values())
    follow = any(one.follows is not None for one in made.values())
    return Evaluate(
        certified_images=certify["images"],
        certified_chunk=certify["chunk"],
        sources=knobs["sources"] if follow else ("model",),
        trials=ball["trials"] if drawing else 1,
        **{name: knobs[name] for name in names},
    )
