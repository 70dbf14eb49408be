"""The workers that have reported in."""
