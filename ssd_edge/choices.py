"""What options may be: the values and defaults that the command line shares with the code that obeys them.

Imports nothing, so that `ssd-edge --help` needs neither NumPy nor torch.
"""

PRECISIONS = ("fp32", "fp16", "int8")  # of an exported file
TARGETS = ("tensorrt", "cpu")  # whose int8 kernels a file is for
DEFAULT_TARGET = "tensorrt"
METHODS = ("minmax", "moving_average", "percentile", "entropy", "mse")  # from activations to ranges
DEFAULT_METHOD = "minmax"
CALIBRATION_IMAGES = 512  # how many are chosen to calibrate on
BACKENDS = ("auto", "onnxruntime", "tensorrt")  # what runs an .onnx file
FLAVOURS = ("tensorrt", "rtx")  # TensorRT and TensorRT-RTX
