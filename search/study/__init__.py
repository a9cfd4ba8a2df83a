"""The search itself, and the only door to Optuna: problem, objectives, samplers, storage."""
