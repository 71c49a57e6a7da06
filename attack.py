"""Attacks and certifies a recipe's classifier: python attack.py configs/digits.py"""

from knn_jax import cli

if __name__ == "__main__":
    cli.main(cli.attack, "Attacks and certifies a recipe's classifier; trains it first if need be.")
