"""Making bundles: ONNX export and the recipes."""
