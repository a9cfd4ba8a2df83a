"""Fidelity, accuracy, and their confidence intervals."""
