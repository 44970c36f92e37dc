"""One loop and one set of losses for everything that is trained."""
