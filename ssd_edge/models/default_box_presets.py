"""The default boxes that are known by name: those of the SSD paper for VOC and COCO, and of torchvision's SSDlite.

The original Caffe scripts (weiliu89/caffe, branch ssd: examples/ssd/ssd_pascal.py and ssd_coco.py; those of SSD512 come
with its published models) work in percent of the image's side: the second level gets `min_ratio`, each further one
floor((90 - min_ratio) / (levels - 2)) more, and the first level a value of its own. They do not clip. The 512-pixel
values are in the paper too, in the footnotes of sections 3.1 and 3.4, and in lufficc/SSD, configs/vgg_ssd512_*.yaml.

| preset        | first | min_ratio | apart | min_size of each level, max_size of the last, in pixels      |
|---------------|-------|-----------|-------|--------------------------------------------------------------|
| `SSD300_VOC`  | 10 %  | 20 %      | 17 %  | 30, 60, 111, 162, 213, 264; 315                              |
| `SSD300_COCO` | 7 %   | 15 %      | 18 %  | 21, 45, 99, 153, 207, 261; 315                               |
| `SSD512_VOC`  | 7 %   | 15 %      | 15 %  | 35.84, 76.8, 153.6, 230.4, 307.2, 384, 460.8; 537.6          |
| `SSD512_COCO` | 4 %   | 10 %      | 16 %  | 20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8; 542.72   |
"""

from __future__ import annotations

from ssd_edge.models.default_boxes import DefaultBoxConfig, linear_scales

_SSD300_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
_SSD300_STEPS = (8, 16, 32, 64, 100, 300)
_SSD512_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))
_SSD512_STEPS = (8, 16, 32, 64, 128, 256, 512)

# Clipped, as torchvision and NVIDIA's DeepLearningExamples do it: the published weights were trained so.
SSD300_COCO = DefaultBoxConfig(_SSD300_RATIOS, (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05), _SSD300_STEPS)
SSD300_VOC = DefaultBoxConfig(_SSD300_RATIOS, (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05), _SSD300_STEPS, clip=False)
SSD512_COCO = DefaultBoxConfig(
    _SSD512_RATIOS, (0.04, 0.1, 0.26, 0.42, 0.58, 0.74, 0.9, 1.06), _SSD512_STEPS, clip=False
)
SSD512_VOC = DefaultBoxConfig(_SSD512_RATIOS, (0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05), _SSD512_STEPS, clip=False)
# qfgaohao/pytorch-ssd's vision/ssd/config/mobilenetv1_ssd_config.py: 60, 105, 150, 195, 240, 285 and 330 pixels. Its
# `ratio` loop gives the same order of shapes, and `generate_ssd_priors` limits centres and sizes.
MOBILENET300 = DefaultBoxConfig(
    ((2, 3),) * 6, (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.1), (16, 32, 64, 100, 150, 300), clip="centres"
)
SSDLITE320 = DefaultBoxConfig(((2, 3),) * 6, linear_scales(0.2, 0.95, levels=6))  # torchvision's ssdlite.py

PRESETS = {
    "ssd300_coco": SSD300_COCO,
    "ssd300_voc": SSD300_VOC,
    "ssd512_coco": SSD512_COCO,
    "ssd512_voc": SSD512_VOC,
    "ssdlite320": SSDLITE320,
}
