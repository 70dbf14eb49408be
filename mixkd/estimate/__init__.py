"""What a run takes, told before it runs: `estimate` asks a child that makes a few steps with `measure`."""
