"""`make demo`: the whole method on a small real language model, with sentences of the project's own."""
