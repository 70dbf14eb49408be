"""What mixup brings to a distilled student, beside the paper's own table: `python -m benchmarks.paper`."""
