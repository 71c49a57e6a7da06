"""The rivals of the exact search, and ours.

Each is given query and bank as JAX arrays, and returns what runs once: () -> (distance, index).
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from knn_jax import neighbors

SCORES = 2**28  # floats: rivals that store their scores do so for this many at a time, 1 GB
HIGHEST = lax.Precision.HIGHEST


class Compiled:
    """A function compiled for its arguments; a call runs it."""

    def __init__(self, function, *args):
        start = time.perf_counter()
        self.program = jax.jit(function).lower(*args).compile()
        self.seconds = time.perf_counter() - start
        self.args = args
        memory = self.program.memory_analysis()
        self.bytes = memory and memory.temp_size_in_bytes + memory.output_size_in_bytes

    def __call__(self):
        return self.program(*self.args)


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

    query = torch.from_dlpack(query)
    index = faiss.GpuIndexFlatL2(faiss.StandardGpuResources(), bank.shape[1])
    index.add(torch.from_dlpack(bank))

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

    def run():
        norm = torch.linalg.vector_norm(bank, dim=1).square()
        found = []
        for part in query.split(max(1, SCORES // len(bank))):
            score, index = torch.addmm(norm, part, bank.T, alpha=-2).topk(k, largest=False)
            squared = score + part.square().sum(1, keepdim=True)
            found.append((squared.clamp(min=0).sqrt(), index))
        distance, index = (torch.cat(leaves) for leaves in zip(*found, strict=True))
        if distance.is_cuda:
            torch.cuda.synchronize()
        return distance, index

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
ON_CPU = ("ours", "faiss_blas", "faiss_direct", "sklearn", "torch", "jax", "matmul")
ON_GPU = ("ours", "ours_bfloat16", "faiss_gpu", "torch", "jax", "matmul")
