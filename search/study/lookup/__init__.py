"""Studies of a finite space of named choices whose values are looked up."""
