"""What makes an object valid: pure checks that return every fault, in the order and words of upstream."""
