"""The only door to MLflow."""

import os

# MLflow imports GitPython, which warns on machines without git unless this is set before.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
# MLflow looks up the home folder, which a user of a container may not have; / is what Docker sets.
if os.path.expanduser("~") == "~":
    os.environ["HOME"] = "/"
