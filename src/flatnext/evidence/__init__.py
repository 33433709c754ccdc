"""Measurements of a trained model beyond accuracy, kept in a file beside its weights for the study report.

Importing the package does not import torch.
"""
