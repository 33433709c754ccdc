"""Evidence about a trained model, gathered part by part and kept beside its weights for the report.

Importing the package does not import torch.
"""
