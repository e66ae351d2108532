"""`ssd-edge bench`: accuracy, speed, size, memory and power of models, measured side by side."""
