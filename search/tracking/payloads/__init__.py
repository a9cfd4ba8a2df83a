"""The content of each kind of MLflow run, as plain data."""
