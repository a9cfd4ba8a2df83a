"""How much of the true front a study finds: see fronts.py, which this runs.

MERGE_SEARCH_DATA=/path/to/data python bench/search.py
"""

import importlib
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

# This file's own name hides the package's from what it runs, and from every bench beside it.
before = list(sys.path)
sys.path[:] = [entry for entry in before if Path(entry).resolve() != HERE]
if __name__ == "__main__":
    runpy.run_path(str(HERE / "fronts.py"), run_name="__main__")
else:
    del sys.modules[__name__]
    importlib.import_module(__name__)
    sys.path[:] = before
