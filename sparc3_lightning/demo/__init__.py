"""`make demo`: the whole method on a corpus, a model and a scorer that the project makes itself."""
