"""The only door to MLflow."""

import os

# MLflow imports GitPython, which warns on machines without git unless this is set before.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
