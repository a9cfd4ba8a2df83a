"""Studies: the problem, its search space and objectives, samplers, and storage of trials.

Within this project only this package imports Optuna.
"""
