"""The targets: each module has `inputs()`, a strategy of inputs."""
