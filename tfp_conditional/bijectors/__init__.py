"""Layers, and what stands around them: composition, scales, bounds, supports."""
