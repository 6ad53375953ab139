"""Layers put together: whole flows, and a density from sizes alone."""
