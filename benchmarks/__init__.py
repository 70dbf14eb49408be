"""Claims, measured: a runnable package for each. `README.md` lists them, `results/` keeps what came out."""
