"""The supervisor of trainer processes and the control worker. Imports no torch."""
