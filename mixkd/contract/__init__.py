"""What the service and the trainer agree on, free of torch and transformers.

`spec` is the recipe and the run, `messages` the lines on the trainer's pipe, `rows` reads and checks
data files, `folder` inspects a model folder without loading it, `families` lists the encoders we know.
"""
