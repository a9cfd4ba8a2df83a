"""What a forked `merge-search` needs, imported and used once, so that each fork starts warm.

The fork server imports this module. A cold search spends more than half of its time on imports,
on MLflow's list of installed packages and on rendering the frames of the tiny config.
"""

from __future__ import annotations

import importlib
import io
import os

import matplotlib.pyplot as plt
import plotly.graph_objects as go
import plotly.io
from mlflow.utils import requirements_utils

from search.data.frames import cached_scene
from search.data.synthetic.scenes import SceneSettings

IMPORTED = (
    "alembic.command",
    "mlflow.pyfunc",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "psycopg",
    "pyarrow.pandas_compat",
    "pytest",
    "sqlalchemy.dialects.sqlite",
    "search.cli.main",
    "search.deploy.export",
    "search.pipelines.correlate",
    "search.pipelines.run",
    "search.tracking.models",
    "search.utils.console",
    "search.watch.daemon",
    "search.watch.round",
)
FRAMES = {1: 60, 2: 12}
"""Seed -> number of scenes that the tiny configs render from it."""


def warm_up() -> None:
    """Import everything, draw a picture with each toolkit, and fill the caches."""
    os.environ.pop("PYTHONPATH", None)  # only this server needs it, see `commands`
    for module in IMPORTED:
        importlib.import_module(module)
    plt.switch_backend("agg")
    figure, axes = plt.subplots()
    axes.imshow([[0.0, 1.0]])
    figure.savefig(io.BytesIO())
    plt.close(figure)
    go.Figure([go.Scatter(x=[1], y=[1]), go.Parcoords()]).to_html()
    plotly.io.templates[plotly.io.templates.default]
    requirements_utils._init_modules_to_packages_map()  # type: ignore[no-untyped-call]
    for seed, count in FRAMES.items():
        for index in range(count):
            cached_scene(SceneSettings(seed=seed), index)


warm_up()
