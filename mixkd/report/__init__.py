"""The report card: `build` makes it, `schema` says what it holds, `card` and `curves` show it to people.

`judgement` scores the answers to a set, with `bootstrap` and `calibration`; `variant` puts a recipe into
words; `provenance` says what it all came from.
"""
