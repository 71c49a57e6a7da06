"""The stages of `accelerator.py`: what each measures, row by row, and where its figures are kept."""
