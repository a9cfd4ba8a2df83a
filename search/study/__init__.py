"""The Optuna study: problem, search space, objectives, samplers, storage. The only door to Optuna."""
