"""Represent what is possible: staged models, legal shares, plans, their bytes, merged models.

The names in `__all__` are the public API. They are imported when they are first used, so that
reading a plan does not import the networks. Nothing here imports `search`, Optuna or MLflow.
"""

from typing import TYPE_CHECKING, Any

from spaces.lazy import lazy_attributes

if TYPE_CHECKING:
    from spaces.bundle import load_bundle as load_bundle
    from spaces.errors import MergeSearchError as MergeSearchError
    from spaces.model_spec import ModelSpec as ModelSpec
    from spaces.plan import Share as Share
    from spaces.plan import SharePlan as SharePlan
    from spaces.zoo import load_model as load_model

__distribution__ = "merge-search"
"""Another package on PyPI is named `spaces`, too: bundles check that they import this one."""
_MODULES = {
    "load_bundle": "spaces.bundle",
    "MergeSearchError": "spaces.errors",
    "ModelSpec": "spaces.model_spec",
    "Share": "spaces.plan",
    "SharePlan": "spaces.plan",
    "load_model": "spaces.zoo",
}
__all__ = ["MergeSearchError", "ModelSpec", "Share", "SharePlan", "load_bundle", "load_model"]
_load = lazy_attributes(__name__, _MODULES)


def __getattr__(name: str) -> Any:
    return _load(name)
