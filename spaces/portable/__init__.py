"""ONNX graphs that the compilers of boxes take."""
