"""Sweeps: many selections of one run, each evaluated once, in one table."""

from sparc3_lightning.sweeps.grid import Cell, Grid, cells_of

__all__ = ["Cell", "Grid", "cells_of"]
