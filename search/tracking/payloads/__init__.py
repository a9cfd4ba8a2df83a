"""What each kind of MLflow run holds, as plain data."""
