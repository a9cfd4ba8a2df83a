"""What is possible: models cut into stages, legal shares, plans, bytes, the merged module.

Nothing in here knows of the search, of Optuna or of MLflow.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spaces.bundle import load_bundle as load_bundle

__all__ = ["load_bundle"]


def __getattr__(name: str) -> Any:
    """`spaces.load_bundle`, without making everybody who wants a plan wait for the networks."""
    if name == "load_bundle":
        from spaces.bundle import load_bundle

        return load_bundle
    raise AttributeError(f"module 'spaces' has no attribute {name!r}")
