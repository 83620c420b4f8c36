"""Start or join Ray, check nodes, and form the learner's process group."""
