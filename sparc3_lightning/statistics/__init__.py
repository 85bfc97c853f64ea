"""What paired numbers tell: tests, intervals, size of an effect, power, corrections. Over columns: `compare`."""
