"""(the untouched units, the conditions) -> parameters."""
