"""What the stages share: artifacts and their paths, processes, console, errors, the run order."""
