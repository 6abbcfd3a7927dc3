"""What files mean: types, GGUF, imatrix, recipes; written whole or not at all."""
