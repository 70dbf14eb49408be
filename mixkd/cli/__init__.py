"""The commands of `python -m mixkd`. Importing one loads no torch: its work does."""
