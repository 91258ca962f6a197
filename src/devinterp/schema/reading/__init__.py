"""A store on disk or a tree in memory, as the validator sees it: metadata first, then values piece by piece."""
