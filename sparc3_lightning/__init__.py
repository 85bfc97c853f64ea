"""SparC3: find, remove and evaluate the neurons that carry an unwanted behaviour."""
