"""What is possible: models cut into stages, legal shares, plans, bytes, the merged module.

Nothing in here knows of the search, of Optuna or of MLflow.
"""
