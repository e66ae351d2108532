"""The architectures that are exported, with their anchors and the sides of their square inputs."""

ANCHORS = {
    "ssdlite320_mobilenet_v3_large": 3234,
    "ssdlite320_mobilenet_v3_large_full_tail": 3234,
    "ssd300_vgg16": 8732,
    "ssd300_resnet50": 8732,
    "ssd512_vgg16": 24564,
}
SIZE = {arch: int(arch.removeprefix("ssdlite").removeprefix("ssd")[:3]) for arch in ANCHORS}
