"""Parameters -> an invertible scalar map, one for each unit."""
