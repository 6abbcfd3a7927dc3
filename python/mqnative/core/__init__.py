"""The checked NumPy face of the compiled module: arrays in, arrays or typed errors out."""
