"""Distillation jobs: their states, rows, claims and events."""
