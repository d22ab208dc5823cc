"""Ways to read a data set, each a row of CASES: one process a case, measured by its own clock."""
