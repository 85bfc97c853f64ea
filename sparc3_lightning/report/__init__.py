"""What shows a run: the terminal, TensorBoard, figures and the page, from what the run has left."""
