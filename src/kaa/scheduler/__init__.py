"""Which node takes which pod: columns of nodes, masks and scores."""
