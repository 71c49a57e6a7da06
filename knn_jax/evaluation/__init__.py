"""Runs a recipe: attacks, certificates and measures over many images, resumable at any chunk."""
