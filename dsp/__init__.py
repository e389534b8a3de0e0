"""Blocks of samples become tension and events; no clock, no input or output, no threads."""
