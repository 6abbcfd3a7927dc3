"""What a tensor loses at a type it was never run at, and what a whole mix loses."""
