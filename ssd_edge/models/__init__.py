"""The SSD detectors in PyTorch, one concept a file. `create.create_model` makes one by name.

Parameter names equal torchvision's, so its published weights load strictly.
"""
