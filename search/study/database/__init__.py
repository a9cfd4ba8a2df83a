"""Trials in PostgreSQL, in the tables of Optuna, with few round trips.

Read `trial_rows` (the statements) and then `batched_storage` (the storage).
"""
