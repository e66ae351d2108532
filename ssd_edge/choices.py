"""What options may be: the values and defaults that the command line shares with the code that obeys them.

Imports nothing, so that `ssd-edge --help` needs neither NumPy nor torch.
"""

PRECISIONS = ("fp32", "fp16", "int8")  # of an exported file
TARGETS = ("tensorrt", "cpu")  # whose int8 kernels a file is for
DEFAULT_TARGET = "tensorrt"
METHODS = ("minmax", "moving_average", "percentile", "entropy", "mse")  # from activations to ranges
DEFAULT_METHOD = "minmax"
CALIBRATION_IMAGES = 512  # how many are chosen to calibrate on
DEFAULT_ARCH = "ssdlite320_mobilenet_v3_large"
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")  # what PyTorch runs, of other projects too
FAMILIES = ("torchvision", "pytorch-ssd", "amdegroot", "pytorch-ssd-lightning", "caffe")  # whose detectors come in
PRESETS = ("small", "paper", "torchvision")  # recipes of training
SMALL, PAPER, TORCHVISION = PRESETS
EVALUATION_BATCH = 8  # images per call of a detector that is scored
SHOWN_SCORE = 0.4  # detections above it are shown; mAP counts less certain ones too
BACKENDS = ("auto", "onnxruntime", "tensorrt")  # what runs an .onnx file
DEFAULT_BACKEND = "auto"  # TensorRT where there are TensorRT and a GPU
FLAVOURS = ("tensorrt", "rtx")  # TensorRT and TensorRT-RTX
TRANSPORTS = ("tcp", "udp")  # of RTSP
DAMAGED = ("skip", "keep")  # frames that come damaged
HWACCELS = ("auto", "none", "cuda", "qsv", "gstreamer")  # what decodes video
LOG_FORMATS = ("human", "json")  # of messages and progress
