"""The supervisor side of a job: claim, fetch, run the trainer, publish. Imports no torch."""
