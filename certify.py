"""Certifies a recipe's classifier: python certify.py configs/digits.py"""

from knn_jax import cli

if __name__ == "__main__":
    cli.main(cli.certify, "Certifies a recipe's classifier; trains it first if need be.")
