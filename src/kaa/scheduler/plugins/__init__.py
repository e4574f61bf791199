"""One module a consideration; ``config`` lists them in the order in which they are asked."""
