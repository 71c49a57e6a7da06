"""Certifies a recipe's classifier: python certify.py configs/digits.py"""

from knn_jax import cli, jobs

if __name__ == "__main__":
    cli.main(jobs.certify, "Certifies a recipe's classifier; trains it first if need be.")
