"""Transport weight versions from the learner to the rollout actors."""
