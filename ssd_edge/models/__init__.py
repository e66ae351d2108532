"""The SSD detectors in PyTorch, one concept a file. `create.create_model` makes one by name.

Parameter names equal torchvision's where it has the model, so its published weights load strictly. Each `backbone_*.py`
registers its architectures; docs/backbones.md shows how to add one in a file outside the package.
"""
