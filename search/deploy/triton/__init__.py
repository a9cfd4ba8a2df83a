"""A merged model as a model repository of NVIDIA Triton Inference Server."""
