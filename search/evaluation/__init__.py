"""Fidelity, accuracy and latency of plans and bundles, with confidence intervals."""
