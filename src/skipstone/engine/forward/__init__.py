"""One forward: the runner, and layers computed eagerly or as captured graphs."""
