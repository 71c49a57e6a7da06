"""The rivals of the exact search, and ours.

Each is given query and bank as JAX arrays, and returns what runs once: () -> (distance, index).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from machine import product
from timing import Compiled

from knn_jax import neighbors

SCORES = 2**28  # floats: rivals that store their scores do so for this many at a time, 1 GB
ROWS = 2**20  # of a bank of bytes that are widened at once
MODES = ("float32", "bfloat16", "tensorfloat32")  # of a matmul, and of ours but for the first
HIGHEST = lax.Precision.HIGHEST


def ours(query, bank, k, subspaces=1, **options):
    if subspaces > 1:
        options["metric"] = neighbors.Subspaces(subspaces)
    return Compiled(functools.partial(neighbors.search, k=k, **options), query, bank)


def faiss_cpu(query, bank, k, threshold):
    import faiss

    query, bank = np.asarray(query), np.asarray(bank)

    def run():
        faiss.cvar.distance_compute_blas_threshold = threshold  # the two paths take turns
        squared, index = faiss.knn(query, bank, k)
        return np.sqrt(squared), index

    return run


def faiss_gpu(query, bank, k):
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        raise ImportError("this faiss has no GPU part")
    import faiss.contrib.torch_utils  # lets it take and return tensors on the GPU
    import torch

    query, bank = torch.from_dlpack(query), torch.from_dlpack(bank)
    config = faiss.GpuIndexFlatConfig()
    config.useFloat16 = bank.dtype == torch.uint8  # which holds bytes exactly
    index = faiss.GpuIndexFlatL2(faiss.StandardGpuResources(), bank.shape[1], config)
    for rows in bank.split(ROWS):
        index.add(rows.float())

    def run():
        squared, found = index.search(query, k)
        squared.sqrt_()
        torch.cuda.synchronize()
        return squared, found

    return run


def sklearn(query, bank, k):
    from sklearn.neighbors import NearestNeighbors

    query = np.asarray(query)
    fitted = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(np.asarray(bank))
    return lambda: fitted.kneighbors(query)


def torch_topk(query, bank, k):
    import torch

    query, bank = torch.from_dlpack(query), torch.from_dlpack(bank)

    def nearest(part, rows, norm):
        score, index = torch.addmm(norm, part, rows.T, alpha=-2).topk(k, largest=False)
        return score + part.square().sum(1, keepdim=True), index

    def run():
        found = []  # of each slice of the bank, whose rows are widened where they are bytes
        for first in range(0, len(bank), ROWS):
            rows = bank[first : first + ROWS].float()
            norm = torch.linalg.vector_norm(rows, dim=1).square()
            parts = [nearest(part, rows, norm) for part in query.split(max(1, SCORES // len(rows)))]
            squared, index = (torch.cat(leaves) for leaves in zip(*parts, strict=True))
            found.append((squared, index + first))
        squared, index = (torch.cat(leaves, 1) for leaves in zip(*found, strict=True))
        if len(found) > 1:
            squared, place = squared.topk(k, largest=False)
            index = index.gather(1, place)
        distance = squared.clamp(min=0).sqrt()
        if distance.is_cuda:
            torch.cuda.synchronize()
        return distance, index

    return run


def in_halves(query, bank):
    """Both as tensors on the GPU; bytes as float16, which holds them exactly in twice the space."""
    import torch

    if not torch.cuda.is_available():
        raise ImportError("torch finds no GPU")
    query, bank = torch.from_dlpack(query), torch.from_dlpack(bank)
    return (query.half(), bank.half()) if bank.dtype == torch.uint8 else (query, bank)


def flashlib(query, bank, k):
    """Its kernels hold at most 128 neighbours well; of float32 they multiply in TensorFloat32."""
    import torch
    from flashlib import flash_knn

    query, bank = in_halves(query, bank)

    def run():
        squared, index = flash_knn(query, bank, k)
        distance = squared.sqrt()
        torch.cuda.synchronize()
        return distance, index

    return run


def certex(query, bank, k):
    import torch
    from certex import Index

    query, bank = torch.from_dlpack(query), torch.from_dlpack(bank)
    index = Index(dim=bank.shape[1])
    index.add(bank)

    def run():
        squared, found = index.search(query, k=k)
        distance = squared.clamp(min=0).sqrt()
        torch.cuda.synchronize()
        return distance, found

    return run


def cuvs(query, bank, k):
    import torch
    from cuvs.neighbors import brute_force

    query, bank = in_halves(query, bank)
    index = brute_force.build(bank)

    def run():
        squared, found = brute_force.search(index, query, k)
        squared, found = (torch.as_tensor(x, device="cuda") for x in (squared, found))
        distance = squared.clamp(min=0).sqrt()
        torch.cuda.synchronize()
        return distance, found

    return run


def jax_topk(query, bank, k):
    def search(query, bank):
        norm = jnp.square(bank).sum(1)

        def one(query):  # batched by lax.map
            score, index = lax.top_k(2 * jnp.matmul(query, bank.T, precision=HIGHEST) - norm, k)
            return jnp.sqrt(jnp.maximum(jnp.square(query).sum() - score, 0)), index

        return lax.map(one, query, batch_size=max(1, min(len(query), SCORES // len(bank))))

    return Compiled(search, query, bank)


def matmul(query, bank, k):
    """No search: the best score of each query, so that the scores need not be stored."""
    widest = 100 if jax.default_backend() == "cpu" else SCORES // len(bank)
    tile = max(1, min(len(query), widest))

    def best(query, bank):
        return lax.map(
            lambda query: jnp.matmul(query, bank.T, precision=HIGHEST).max(), query, batch_size=tile
        )

    return Compiled(best, query, bank)


def bare_matmul(query, bank, k, mode):
    """No search, for a GPU: the largest score of each query, by slices of the rows, so that the scores
    need not all be held."""
    rows, queries = len(bank), len(query)
    size = max(1, min(rows, SCORES // queries))

    def best(query, bank):
        def further(number, best):
            first = jnp.minimum(number * size, rows - size)
            part = lax.dynamic_slice_in_dim(bank, first, size)
            return jnp.maximum(best, product(query, part.T, mode).max(1))

        return lax.fori_loop(0, -(-rows // size), further, jnp.full(queries, -jnp.inf))

    return Compiled(best, query, bank)


RIVALS = {
    "ours": ours,
    "ours_bfloat16": functools.partial(ours, coarse="bfloat16"),
    "faiss_blas": functools.partial(faiss_cpu, threshold=1),
    "faiss_direct": functools.partial(faiss_cpu, threshold=2**30),
    "faiss_gpu": faiss_gpu,
    "sklearn": sklearn,
    "torch": torch_topk,
    "jax": jax_topk,
    "matmul": matmul,
}
ACCELERATOR = {
    **{f"matmul_{mode}": functools.partial(bare_matmul, mode=mode) for mode in MODES},
    "ours": ours,
    **{f"ours_{mode}": functools.partial(ours, coarse=mode) for mode in MODES[1:]},
    "torch": torch_topk,
    "flashlib": flashlib,
    "faiss_gpu": faiss_gpu,
    "cuvs": cuvs,
    "certex": certex,
    "jax": jax_topk,
}
ON_CPU = ("ours", "faiss_blas", "faiss_direct", "sklearn", "torch", "jax", "matmul")
ON_GPU = ("ours", "ours_bfloat16", "faiss_gpu", "torch", "jax", "matmul")
