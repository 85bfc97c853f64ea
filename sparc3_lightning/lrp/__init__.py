"""LRP: the rules, RelevanceLinear, targets, and attribution of a model."""
