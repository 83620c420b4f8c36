"""Update networks from samples: replay, losses, optimisers and the learners of all stages."""
