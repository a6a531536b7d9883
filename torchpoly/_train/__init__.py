"""Optimizers, objectives and the training loop."""
