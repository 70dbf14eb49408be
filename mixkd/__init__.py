"""MixKD (Liang et al., ICLR 2021): distil a text classifier by imitating its teacher on mixed examples.

Importing this package loads nothing; `mixkd.contract` is free of torch and transformers.
"""
