"""One module per controller: the pure plan first, then reconcile, then wiring."""
