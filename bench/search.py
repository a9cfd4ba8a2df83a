"""How much of the true front a study finds: see fronts.py, which this runs.

MERGE_SEARCH_DATA=/path/to/data python bench/search.py
"""

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    # This file's own name would hide the package's from what it runs.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE]
    runpy.run_path(str(HERE / "fronts.py"), run_name="__main__")
