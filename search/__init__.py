"""Find the stages of several deep networks that can share one copy, within a memory budget.

The names in `__all__` are the public API. They are imported when they are first used, so that
`import search` is fast.
"""

from typing import TYPE_CHECKING, Any

import spaces

if getattr(spaces, "__distribution__", "") != "merge-search":
    raise ImportError(
        f"{spaces.__file__} is another package named `spaces`, not that of merge-search: install "
        "merge-search in an environment of its own"
    )

from spaces.lazy import lazy_attributes

if TYPE_CHECKING:
    from search.api import correlate as correlate
    from search.api import exact as exact
    from search.api import export as export
    from search.api import load_config as load_config
    from search.api import promote as promote
    from search.api import rollback as rollback
    from search.api import run as run
    from search.api import split_models as split_models
    from search.api import verify as verify
    from search.config.run import RunConfig as RunConfig
    from search.results.search_result import Result as Result
    from search.results.split_result import SplitResult as SplitResult
    from spaces.errors import MergeSearchError as MergeSearchError

_MODULES = {
    "correlate": "search.api",
    "exact": "search.api",
    "export": "search.api",
    "load_config": "search.api",
    "promote": "search.api",
    "rollback": "search.api",
    "run": "search.api",
    "split_models": "search.api",
    "verify": "search.api",
    "RunConfig": "search.config.run",
    "Result": "search.results.search_result",
    "SplitResult": "search.results.split_result",
    "MergeSearchError": "spaces.errors",
}
__all__ = [
    "MergeSearchError", "Result", "RunConfig", "SplitResult", "correlate", "exact", "export",
    "load_config", "promote", "rollback", "run", "split_models", "verify",
]  # fmt: skip
_load = lazy_attributes(__name__, _MODULES)


def __getattr__(name: str) -> Any:
    return _load(name)
