"""Weight files in the forms others published them, turned into the state dicts of mien's networks."""
