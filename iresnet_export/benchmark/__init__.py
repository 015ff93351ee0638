"""How fast candidates are: one clock for all of them, in turns, with intervals."""
