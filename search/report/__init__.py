"""Everything a person reads of a run."""
