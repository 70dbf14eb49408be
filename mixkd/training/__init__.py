"""How one network is trained: `loop` is the one loop, `state` what it changes, `checkpoint` keeps it.

`optimiser` has the learning rate of each step; `control` what others ask of a training while it runs.
"""
