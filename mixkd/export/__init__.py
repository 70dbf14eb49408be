"""A model as files: `folder` for plain transformers, `onnx` for others, if `onnx_check` lets them pass."""
