"""From a recipe to a file: the exact plan, then the bytes."""
