"""Training, one concept per file: `run.train` is the way in.

`config` what to train and how, made of the settings of `splits` (which images), `initial_model` (what to start from)
and `optimisation` (a preset of `recipes`, and changes to it); `trainer` the loop, `updater` one step of it,
`checkpoints` what it saves, `resume` what it may go on from; `boxes` default boxes that fit the images.
"""
