"""A trained AGPNet as ONNX that takes camera frames and gives a score and an anomaly map."""
