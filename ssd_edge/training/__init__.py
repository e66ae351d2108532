"""Training, one concept a file: `run.train` is the way in.

`config` what to train and how; `recipes` the named presets; `splits` which images; `boxes` default boxes for them;
`run` the loop; `ema`, `schedules`, `distributed` what it is made of.
"""
