"""Trains a recipe's representation: python train.py configs/digits.py"""

from knn_jax import cli

if __name__ == "__main__":
    cli.main(cli.train, "Trains a recipe's representation, or goes on where it stopped.")
